# What the suites share: where things are, and how each tool is installed. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it

set -euo pipefail

ci=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$ci")
# What was installed here, and what suites leave behind.
out=$ci/out
mkdir -p "$out"
cd "$root"
# Crowds of sockets need descriptors.
ulimit -S -n "$(ulimit -H -n)"

# The gateway under test: the one that the tests have built, whose assertions are on. `RINGWAY=/path/to/ringway` tests another
# build.
export RINGWAY=${RINGWAY:-$root/target/debug/ringway}

# What is built and tested: the whole workspace with every driver. The same features everywhere, so that nothing is built twice;
# that it builds without them is a suite of its own, which only checks.
workspace=(--workspace --features gateway-core/glommio)

# Every driver, as `shards.driver` names it; the first is the one that `auto` takes.
drivers=(uring monoio epoll glommio)

# on_driver NAME COMMAND...: gateways that COMMAND starts run on that driver.
on_driver() {
    local driver=$1
    shift
    RINGWAY_SHARDS_DRIVER=$driver "$@"
}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# Builds the gateway, unless the caller names one, or has built it: cargo would wait for whatever else it builds meanwhile.
need_gateway() {
    [[ $RINGWAY != "$root/target/debug/ringway" || -n ${CI_BUILT:-} ]] || cargo build --quiet "${workspace[@]}" --bin ringway
}

# once COMMAND...: nobody else installs meanwhile.
once() {
    exec {lock}>"$out/lock"
    flock "$lock"
    "$@"
    exec {lock}>&-
}

# Debian packages by name: installs those that are missing.
need_debian() { once install_debian "$@"; }

install_debian() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == "install ok installed" ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$out/apt.log" 2>&1 ||
        { cat "$out/apt.log"; return 1; }
}

# A virtualenv with the packages of requirements.txt; `$python` is its interpreter.
need_python() {
    python=$out/venv/bin/python
    once install_python
}

install_python() {
    cmp -s "$ci/requirements.txt" "$out/venv/installed" && return 0
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet --disable-pip-version-check -r "$ci/requirements.txt"
    cp "$ci/requirements.txt" "$out/venv/installed"
}

# node_modules, exactly as package-lock.json says.
need_node() { once install_node; }

install_node() {
    cmp -s "$ci/package-lock.json" "$ci/node_modules/installed" && return 0
    npm ci --prefix "$ci" --ignore-scripts --no-audit --no-fund --loglevel=error
    cp "$ci/package-lock.json" "$ci/node_modules/installed"
}

# Autobahn's last release wants Python 2.7, and the last virtualenv that knows it; `$wstest` is the tool.
need_autobahn() {
    wstest=$out/venv-autobahn/bin/wstest
    once install_autobahn
}

install_autobahn() {
    [[ ! -e $out/venv-autobahn/installed ]] || return 0
    rm -rf "$out/venv-autobahn" "$out/venv-virtualenv"
    python3 -m venv "$out/venv-virtualenv"
    "$out/venv-virtualenv/bin/pip" install --quiet --disable-pip-version-check 'virtualenv<20.22'
    "$out/venv-virtualenv/bin/virtualenv" --quiet -p "$(python27)" "$out/venv-autobahn"
    "$out/venv-autobahn/bin/pip" install --quiet --disable-pip-version-check autobahntestsuite==25.10.1 2>"$out/autobahn-install.log" ||
        { cat "$out/autobahn-install.log"; return 1; }
    touch "$out/venv-autobahn/installed"
}

python27() {
    local candidate
    for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7 /usr/bin/python2.7; do
        [[ -x $candidate ]] && echo "$candidate" && return
    done
    echo "no Python 2.7 found: pyenv install 2.7.18" >&2
    return 1
}

# start_ringway NAME ARG...: starts a gateway on free ports and waits until it is ready. Sets $ringway_pid, $ws, $grpc, $admin.
# The gateway ends with the script.
start_ringway() {
    local log=$out/$1.log fifo ready=
    shift
    fifo=$(mktemp -u "$out/ready.XXXXXX")
    mkfifo "$fifo"
    "$RINGWAY" "$@" --ws 127.0.0.1:0 --grpc 127.0.0.1:0 --admin 127.0.0.1:0 >"$fifo" 2>"$log" &
    ringway_pid=$!
    trap stop_ringway EXIT
    exec {ringway_out}<"$fifo"
    rm "$fifo"
    while read -r -t 60 -u "$ringway_out" ready && [[ $ready != "ringway ready "* ]]; do :; done
    [[ $ready == "ringway ready "* ]] || { echo "ringway did not become ready:"; cat "$log"; return 1; }
    ws=$(ready_field ws "$ready") grpc=$(ready_field grpc "$ready") admin=$(ready_field admin "$ready")
    cat >>"$log" <&"$ringway_out" &
}

ready_field() { sed -E "s/.* $1=([^ ]+).*/\1/" <<<"$2"; }

stop_ringway() {
    [[ -n ${ringway_pid:-} ]] || return 0
    kill "$ringway_pid" 2>/dev/null || true
    wait "$ringway_pid" 2>/dev/null || true
    ringway_pid=
}
