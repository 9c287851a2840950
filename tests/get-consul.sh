#!/usr/bin/env bash
# Puts a Consul at target/consul/usr/bin/consul, for the tests: Debian's package, from this machine's own apt sources. A
# suite that has none any more lends its sources to an older one that has; the system's own package lists stay as they are.
#
#   tests/get-consul.sh          into target/consul
#   tests/get-consul.sh DIR      into DIR
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${1:-target/consul}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
consul=$dir/usr/bin/consul
[ ! -x "$consul" ] || exit 0
if system=$(command -v consul); then
  mkdir -p "${consul%/*}"
  ln -sf "$system" "$consul"
  exit 0
fi

apt=$dir/apt
trap 'rm -rf "$apt"' EXIT
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
fetch() {
  # Sources of the suite $1 in a place of their own, made from those of the suite that runs here.
  rm -rf "$apt"
  mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial"
  local file
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -f "$file" ] && grep -q "$suite" "$file"; then
      sed "s/\b$suite\b/$1/g" "$file" >"$apt/sources/${file##*/}"
    fi
  done
  local options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/sources" -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root)
  # An old suite has no updates any more, which mustn't matter.
  apt-get "${options[@]}" update 2>/dev/null || true
  (cd "$apt" && apt-get "${options[@]}" download consul 2>/dev/null && dpkg -x consul_*.deb "$dir")
}

for candidate in "$suite" trixie bookworm bullseye; do
  if fetch "$candidate"; then
    "$consul" version
    exit 0
  fi
done
echo "no Consul in the apt sources of this machine: put one at $consul, or on the PATH" >&2
exit 1
