//! Replaces environment variables in the text of the configuration, before YAML sees it.
//!
//! ```text
//! $NAME  ${NAME}                 the value, or nothing
//! ${A == 'x'}  ${A != "x"}       true or false
//! ${A == B}    ${A != B}         compares two variables
//! $ and one of * # $ @ ! ? - 0-9 the variable of that one-character name, so nothing
//! $ and anything else            stays
//! ```
//!
//! Comments are expanded too. Source: `spec/cli-config.md` §3 and Go's `os.Expand`.

use crate::environment::Environment;

/// One replacement, for `litefs config check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// What stands in the file, such as `${NAME}`.
    pub(crate) expr: String,
    /// What it became.
    pub(crate) value: String,
    /// Variables it asks for that aren't set.
    pub(crate) unset: Vec<String>,
}

/// The expanded text, and what was replaced.
pub(crate) fn expand(text: &str, env: &Environment) -> (String, Vec<Expansion>) {
    let mut out = String::with_capacity(text.len());
    let mut expansions = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        line += before.matches('\n').count();
        let (name, len) = reference(&from[1..]);
        let expr = &from[..=len];
        match name {
            Some(name) => {
                let (value, unset) = evaluate(name.trim(), env);
                out.push_str(&value);
                expansions.push(Expansion { line, expr: expr.into(), value, unset });
            }
            None if len == 0 => out.push('$'),
            None => {} // `${}` or an open brace: dropped, as Go does.
        }
        line += expr.matches('\n').count();
        rest = &from[expr.len()..];
    }
    out.push_str(rest);
    (out, expansions)
}

/// What the text after a `$` refers to, and how many bytes of it belong to the reference.
fn reference(after: &str) -> (Option<&str>, usize) {
    match after.chars().next() {
        Some('{') => match after.find('}') {
            Some(1) => (None, 2),
            Some(end) => (Some(&after[1..end]), end + 1),
            None => (None, 1),
        },
        Some('*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9') => (Some(&after[..1]), 1),
        _ => {
            let len = word_len(after);
            ((len > 0).then(|| &after[..len]), len)
        }
    }
}

/// The value of what stands between the braces, and which variables were missing.
fn evaluate(expr: &str, env: &Environment) -> (String, Vec<String>) {
    let mut unset = Vec::new();
    let mut var = |name: &str| match env.var(name) {
        Some(value) => value.to_owned(),
        None => {
            unset.push(name.to_owned());
            String::new()
        }
    };
    let value = match comparison(expr) {
        Some((left, equal, Operand::Text(right))) => ((var(left) == right) == equal).to_string(),
        Some((left, equal, Operand::Variable(right))) => {
            ((var(left) == var(right)) == equal).to_string()
        }
        None => var(expr),
    };
    (value, unset)
}

enum Operand<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Splits `A == 'x'` into its left side, whether it asks for equality, and its right side.
fn comparison(expr: &str) -> Option<(&str, bool, Operand<'_>)> {
    let (left, rest) = expr.split_at(word_len(expr));
    let rest = rest.trim_start();
    let (equal, right) = match (rest.strip_prefix("=="), rest.strip_prefix("!=")) {
        (Some(right), _) => (true, right.trim_start()),
        (_, Some(right)) => (false, right.trim_start()),
        _ => return None,
    };
    let quoted = |q: char| right.strip_prefix(q)?.strip_suffix(q).filter(|s| !s.contains(q));
    let operand = match quoted('\'').or_else(|| quoted('"')) {
        Some(text) => Operand::Text(text),
        None if !right.is_empty() && word_len(right) == right.len() => Operand::Variable(right),
        None => return None,
    };
    (!left.is_empty()).then_some((left, equal, operand))
}

/// Length of the leading run of letters, digits and underscores (ASCII, as `\w` in Go).
fn word_len(s: &str) -> usize {
    s.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(s.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env() -> Environment {
        Environment::from([("A", "x"), ("B", "x"), ("C", "y z"), ("EMPTY", ""), ("1", "one")])
    }

    #[test]
    fn each_form_is_replaced() {
        for (text, want) in [
            ("", ""),
            ("plain", "plain"),
            ("$A-${C}", "x-y z"),
            ("${ A }", "x"),
            ("$NONE|${NONE}|$EMPTY", "||"),
            ("$A_", ""),
            ("${A == 'x'} ${A=='x'} ${A != 'x'}", "true true false"),
            ("${A == \"x\"} ${A == \"y\"}", "true false"),
            ("${A == B} ${A != B} ${A == C} ${A==C}", "true false false false"),
            ("${A == ''} ${EMPTY == ''} ${NONE == ''}", "false true true"),
            ("${A == 'it''s'}", ""),
            ("${A = 'x'} ${A B} ${== 'x'}", "  "),
            ("a$$b", "ab"),
            ("$1 $* $# $@ $! $? $- $5", "one       "),
            ("$ $/ $. $% 5$", "$ $/ $. $% 5$"),
            ("a${}b", "ab"),
            ("a${A", "aA"),
            ("$ü", "$ü"),
            ("# $A", "# x"),
        ] {
            assert_eq!(expand(text, &env()).0, want, "{text}");
        }
    }

    #[test]
    fn replacements_are_reported_with_their_lines() {
        let (_, got) = expand("a\n$A\n\n${NONE == OTHER}", &env());
        let want = [
            Expansion { line: 2, expr: "$A".into(), value: "x".into(), unset: vec![] },
            Expansion {
                line: 4,
                expr: "${NONE == OTHER}".into(),
                value: "true".into(),
                unset: vec!["NONE".into(), "OTHER".into()],
            },
        ];
        assert_eq!(got, want);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[$a-c{}='\" ü!\n]{0,40}") {
            expand(&text, &env());
        }

        #[test]
        fn text_without_dollar_is_kept(text in "[^$]{0,80}") {
            prop_assert_eq!(expand(&text, &env()).0, text);
        }
    }
}
