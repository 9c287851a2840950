# Sourced by scripts that set up a machine by themselves: Debian's packages and Rust, each only where it is missing.
# They run in the project's directory and have `say`, which announces what is done.

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
# need COMMAND PACKAGE
need() { command -v "$1" >/dev/null || missing+=("$2"); }

install_packages() {
  if [ "${#missing[@]}" -gt 0 ]; then
    say "Installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates
  fi
}

# The distribution's Rust may be older than what the manifest asks for.
rust_is_new_enough() {
  local wanted has
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
  has=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  [ -n "$has" ] && printf '%s\n%s\n' "$wanted" "$has" | sort -CV
}

# install_rust COMPONENT…
install_rust() {
  # rustup puts cargo where a fresh shell finds it, and this one doesn't.
  export PATH="$HOME/.cargo/bin:$PATH"
  if ! rust_is_new_enough; then
    say "Installing Rust"
    curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh | sh -s -- -y --profile minimal
  fi
  local component
  for component in "$@"; do
    # rustup has a stand-in for each, which only fails when it is run.
    cargo "${component#rust}" --version >/dev/null 2>&1 || rustup component add "$component"
  done
}

require_fuse() {
  [ -e /dev/fuse ] || as_root modprobe fuse || true
  [ -e /dev/fuse ] || {
    echo "no /dev/fuse: load the module, or start the container with --device /dev/fuse --cap-add SYS_ADMIN" >&2
    exit 1
  }
}
