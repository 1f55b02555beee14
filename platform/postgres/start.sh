#!/bin/sh
# PostgreSQL in its container: its data is made before the first start, beside its place, and moved when it is whole.
set -eu
cd /data
if ! whoami >/dev/null 2>&1; then # PostgreSQL wants to know the name of its user, and a container's has none
    echo "postgres:x:$(id -u):0::/tmp:/bin/sh" >/tmp/passwd
    export LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/etc/group
fi
made=/etc/mlops-course/first.sql
databases() { # statements whose work was done before change nothing
    postgres --single -D "$1" postgres <"$made" >/tmp/made 2>&1 || { cat /tmp/made >&2 && exit 1; }
    if grep ERROR: /tmp/made | grep -v 'already exists' >&2; then exit 1; fi
    cp "$made" made.part && mv made.part made.sql
}
if [ ! -d data ]; then
    rm -rf data.part
    initdb -D data.part -U postgres --no-locale -E UTF8 --auth=reject >/tmp/initdb 2>&1 || { cat /tmp/initdb >&2 && exit 1; }
    databases data.part
    mv data.part data
elif ! cmp -s "$made" made.sql; then
    databases data
fi
exec postgres -D data -c config_file=/etc/mlops-course/postgresql.conf
