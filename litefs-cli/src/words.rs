//! Splits a command line of the `exec` setting into words.
//!
//! ```text
//! blanks            separate words           '…'  literal
//! \x                x, but not inside '…'    "…"  literal but for \
//! ; & | < >         end the command          (    error
//! ```
//!
//! There is no shell: no variables (the configuration was expanded before), no substitution. What
//! stands after the end of the command is not run, as in the original, but we say so.
//! Source: `spec/cli-config.md` §5, "Exec".

use thiserror::Error;

/// A command line, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// What follows an unquoted `;`, `&`, `|`, `<` or `>`, with that character; empty if nothing does.
    pub(crate) ignored: String,
}

/// Splits `line`.
///
/// # Errors
/// If a quote isn't closed, a `\` is the last character, or a parenthesis is opened.
pub(crate) fn split(line: &str) -> Result<Words, InvalidCommandLine> {
    let mut words = Vec::new();
    // The word being read; `Some("")` is a word too, if it was quoted.
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let (_, escaped) = chars.next().ok_or(InvalidCommandLine)?;
                word.get_or_insert_default().push(escaped);
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, '(') => return Err(InvalidCommandLine),
            (None, ';' | '&' | '|' | '<' | '>') => {
                // The number in `2>file` belongs to the redirection.
                let descriptor = |w: &String| c == '>' && w.bytes().all(|b| b.is_ascii_digit());
                words.extend(word.filter(|w| !descriptor(w)));
                return Ok(Words { words, ignored: line[at..].into() });
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(InvalidCommandLine);
    }
    words.extend(word);
    Ok(Words { words, ignored: String::new() })
}

/// A command line that can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("invalid command line string")]
pub(crate) struct InvalidCommandLine;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_by_blanks_quotes_and_escapes() {
        for (line, want) in [
            ("", &[][..]),
            ("  \t\n", &[]),
            ("app", &["app"]),
            (" app  -p 80\tx\n", &["app", "-p", "80", "x"]),
            ("sh -c 'a; b | c'", &["sh", "-c", "a; b | c"]),
            (r#"a "b c" d"#, &["a", "b c", "d"]),
            (r#"a"b c"'d e'f"#, &["ab cd ef"]),
            (r"a\ b \' \\", &["a b", "'", r"\"]),
            (r#""a\"b" '\'"#, &["a\"b", r"\"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a $X ${Y} `z`", &["a", "$X", "${Y}", "`z`"]),
            ("a # b", &["a", "#", "b"]),
        ] {
            let got = split(line).unwrap();
            assert_eq!(got.words, want, "{line}");
            assert_eq!(got.ignored, "", "{line}");
        }
    }

    #[test]
    fn an_unquoted_operator_ends_the_command() {
        for (line, words, ignored) in [
            ("a b; c", &["a", "b"][..], "; c"),
            ("a&&b", &["a"], "&&b"),
            ("a | b", &["a"], "| b"),
            ("a <b", &["a"], "<b"),
            ("a 2>err", &["a"], ">err"),
            ("a2>err", &["a2"], ">err"),
            (";", &[], ";"),
        ] {
            let got = split(line).unwrap();
            assert_eq!(
                (&got.words[..], got.ignored.as_str()),
                (&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..], ignored),
                "{line}"
            );
        }
    }

    #[test]
    fn refuses_open_quotes_and_parentheses() {
        for line in ["'a", "\"a", "a\\", "(a)", "a $(b)", "\"a'"] {
            assert_eq!(split(line), Err(InvalidCommandLine), "{line}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("[^']{0,12}", 0..6)) {
            let line = words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line).unwrap().words, words);
        }
    }
}
