#!/bin/sh
# Get the platform's programs without root: platform/get.sh, or only some: platform/get.sh redis-server postgres
# What is on the PATH, or where Debian puts it, is left alone. The rest is unpacked from Debian's packages into out/programs/,
# with the shared libraries that this machine lacks, and gets a command in out/programs/bin/, where the course's services look.
# apt compares each package with the digest in Debian's index, and the index with Debian's signature. Kafka's files come by Maven,
# and each is compared with platform/kafka/SHA256SUMS. Airflow gets a Python environment of its own, from a lock of its own.
# `make clean` takes all of it away again.
set -eu
cd "$(dirname "$0")/.."
into=$PWD/out/programs
apt=$into/apt
airflow=$into/airflow
all="redis-server postgres prometheus prometheus-alertmanager prometheus-node-exporter java kafka airflow"

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# --- what is here already ---------------------------------------------------------------------

# Where a program is, under Debian's name or that of its makers
where() {
    case $1 in
    kafka | airflow) # no others will do
        PATH="$into/bin" command -v "$1"
        return
        ;;
    prometheus-alertmanager) set -- "$1" alertmanager ;;
    prometheus-node-exporter) set -- "$1" node_exporter ;;
    esac
    for name in "$@" /usr/lib/postgresql/*/bin/"$1"; do
        PATH="$into/bin:$PATH" command -v "$name" && return
    done
    return 1
}

# The same, unless it is a Java that is too old for Kafka, or an Airflow of another lock
have() {
    path=$(where "$1") || return 1
    [ "$1" != airflow ] || cmp -s platform/airflow/requirements.lock "$airflow/requirements.lock" || return 1
    if [ "$1" = java ]; then
        major=$("$path" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
        [ "${major:-0}" -ge 17 ] || return 1
    fi
    echo "$1: $path"
}

lacking() { case " $wanted " in *" $1 "*) ;; *) return 1 ;; esac; }

wanted=
for program in ${*:-$all}; do
    case " $all " in *" $program "*) ;; *) fail "$program is not among: $all" ;; esac
    have "$program" || wanted="$wanted $program"
done
[ -n "$wanted" ] || exit 0
if lacking kafka; then # what it needs itself, and what brings it
    for program in java mvn; do
        lacking $program || have $program >/dev/null || wanted="$program $wanted"
    done
fi

# --- Debian's packages ------------------------------------------------------------------------

# An apt of its own, beside the system's: it reads the system's sources and keys, and writes nothing outside
apt() {
    tool=$1
    shift
    "$tool" -qq -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# The package of a program; those of PostgreSQL and Java have their version in their names
package_of() {
    case $1 in
    postgres) apt apt-cache depends --important postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' ;;
    java) apt apt-cache depends --important default-jre-headless | sed -n 's/.*Depends: \(openjdk-[0-9]*-jre-headless\)$/\1/p' ;;
    mvn) echo maven ;;
    *) echo "$1" ;;
    esac
}

# What a package needs and this machine lacks: libraries, and all else of which programs are made. PostgreSQL's compiler of
# queries is left out, at 100 MB
needs() {
    for need in $(dpkg-deb -f "$1" Depends | tr ',' '\n' | sed 's/^ *//; s/[ :|].*//'); do
        case $need in
        libc6 | libllvm*) ;;
        lib* | fonts-* | redis-tools) [ "$(dpkg-query -W -f '${db:Status-Status}' "$need" 2>/dev/null)" = installed ] || echo "$need" ;;
        esac
    done
}

# Unpack packages, then what these need, then what that needs
unpack() {
    known=" "
    while [ $# -gt 0 ]; do
        rm -f "$apt"/archives/*.deb
        (cd "$apt/archives" && apt apt-get download "$@")
        known="$known$* "
        more=
        for package in "$apt"/archives/*.deb; do
            dpkg-deb -x "$package" "$into"
            more="$more $(needs "$package")"
        done
        set --
        for name in $(printf '%s\n' $more | sort -u); do
            case $known in *" $name "*) ;; *) set -- "$@" "$name" ;; esac
        done
    done
    rm -rf "$into"/usr/lib/postgresql/*/lib/llvmjit*.so "$into"/usr/share/doc "$into"/usr/share/javascript/moment-timezone/data
    find "$into/usr" -type l -lname '/*' | while read -r link; do # to what an installed package has elsewhere
        target=$into$(readlink "$link")
        [ ! -e "$target" ] || ln -sfnr "$target" "$link"
    done
}

# A command in out/programs/bin/, which finds the libraries beside it, also where this folder has been moved
command_for() {
    name=$1 program=$2
    shift 2
    [ -x "$into/$program" ] || fail "$program is not in the package of $name"
    mkdir -p "$into/bin"
    {
        echo '#!/bin/sh'
        echo 'programs=$(cd "${0%/*}/.." && pwd)'
        echo "export LD_LIBRARY_PATH=\"\$programs/usr/lib/$triplet:\$programs/lib/$triplet\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\""
        echo "exec \"\$programs/$program\" $* \"\$@\""
    } >"$into/bin/.$name"
    chmod +x "$into/bin/.$name"
    mv "$into/bin/.$name" "$into/bin/$name"
    echo "$name: $into/bin/$name"
}

# The authorities that Java trusts, in its own format: those of this machine, where an installed Java would have written them
certificates() {
    [ ! -e "$1" ] || return 0
    [ -x .venv/bin/python ] || fail "Java needs a list of certificates, and .venv writes it: \`make setup\` first"
    .venv/bin/python -W ignore -c '
import ssl, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
known = [x509.load_der_x509_certificate(each) for each in ssl.create_default_context().get_ca_certs(binary_form=True)]
named = [PKCS12Certificate(each, str(number).encode()) for number, each in enumerate(known)]
sys.stdout.buffer.write(serialize_java_truststore(named, NoEncryption()))
' >"$into/cacerts"
    rm "$1"
    mv "$into/cacerts" "$1"
}

result=0
packages=$(printf '%s\n' $wanted | grep -vx -e kafka -e airflow || true)
if [ -n "$packages" ] && ! { command -v apt-get && command -v dpkg-deb; } >/dev/null; then
    echo "There is no apt-get here, so this is no Debian or Ubuntu. Get" $packages "from their makers, compare the digests
that stand there, and put the programs on the PATH. On macOS: brew install redis postgresql@15 prometheus alertmanager
node_exporter openjdk@17 maven" >&2
    result=1
elif [ -n "$packages" ]; then
    echo "Getting" $packages "from Debian, a minute or two ..."
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    apt apt-get update
    unpack $(for program in $packages; do package_of "$program"; done)
    triplet=$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || basename "$(dirname "$(ls -d /usr/lib/*-linux-*/libc.so.6 | head -n 1)")")
    for program in $packages; do
        case $program in
        postgres)
            bin=$(cd "$into" && ls -d usr/lib/postgresql/*/bin)
            command_for postgres "$bin/postgres"
            command_for initdb "$bin/initdb"
            ;;
        prometheus) command_for prometheus usr/bin/prometheus '--web.local-assets="$programs/usr/share/prometheus/web"' ;;
        java)
            home=$(cd "$into" && ls -d usr/lib/jvm/java-[0-9][0-9]-openjdk-*)
            certificates "$into/$home/lib/security/cacerts"
            command_for java "$home/bin/java"
            ;;
        mvn) command_for mvn usr/share/maven/bin/mvn ;;
        *) command_for "$program" "usr/bin/$program" ;;
        esac
    done
    rm -rf "$apt"
fi

# --- Airflow ----------------------------------------------------------------------------------

if lacking airflow; then
    [ -x .venv/bin/uv ] || fail "Airflow's libraries are installed by the uv of .venv: \`make setup\` first"
    echo "Getting airflow, 490 MB of Python packages, a minute or two ..."
    rm -rf "$airflow" "$airflow.new"
    mkdir -p "$into/bin"
    .venv/bin/uv venv --quiet --relocatable --python .venv/bin/python "$airflow.new"
    .venv/bin/uv pip install --quiet --python "$airflow.new/bin/python" --compile-bytecode --require-hashes -r platform/airflow/requirements.lock
    cp platform/airflow/requirements.lock "$airflow.new"
    mv "$airflow.new" "$airflow"
    cat >"$into/bin/.airflow" <<'END'
#!/bin/sh
# Airflow's command, of an environment of its own.
programs=$(cd "${0%/*}/.." && pwd)
if [ "${1:-}" = --version ]; then
    sed -n 's/^apache-airflow==\([0-9.]*\).*/\1/p' "$programs/airflow/requirements.lock"
    exit
fi
exec "$programs/airflow/bin/python" -m airflow "$@"
END
    chmod +x "$into/bin/.airflow"
    mv "$into/bin/.airflow" "$into/bin/airflow"
    echo "airflow: $into/bin/airflow"
fi
lacking kafka && have java >/dev/null && have mvn >/dev/null || exit $result

# --- Kafka ------------------------------------------------------------------------------------

jars=$into/kafka
echo "Getting kafka, 54 MB by Maven, a minute or two ..."
rm -rf "$jars" "$into/kafka.new"
mkdir -p "$into/bin"
PATH="$into/bin:$PATH" mvn -q -B -f platform/kafka/pom.xml -Dmaven.repo.local="$into/maven" dependency:copy-dependencies -DoutputDirectory="$into/kafka.new"
sums=$PWD/platform/kafka/SHA256SUMS
(cd "$into/kafka.new" && sha256sum --quiet -c "$sums" && [ "$(LC_ALL=C ls)" = "$(cut -c 67- "$sums")" ]) ||
    fail "Maven Central has brought other files than platform/kafka/SHA256SUMS names: nothing of it is used"
mv "$into/kafka.new" "$jars"
rm -rf "$into/maven"
cat >"$into/bin/.kafka" <<'END'
#!/bin/sh
# A class of Kafka's, such as kafka.Kafka or kafka.tools.StorageTool, and its arguments; options of Java may stand before it.
programs=$(cd "${0%/*}/.." && pwd)
if [ "${1:-}" = --version ]; then
    set -- "$programs"/kafka/kafka_*.jar
    echo "${1##*-}"
    exit
fi
PATH="$programs/bin:$PATH"
exec java -Xms128m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$programs/kafka/*" "$@"
END
chmod +x "$into/bin/.kafka"
mv "$into/bin/.kafka" "$into/bin/kafka"
echo "kafka: $into/bin/kafka"
exit $result
