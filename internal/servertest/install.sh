#!/bin/sh
# Installs what the tests of the stores need and this machine lacks: Redis, Memcached, MariaDB, PostgreSQL, and a
# JDK with Maven to stand in for MongoDB. It does so on Debian, as root; elsewhere it says what is missing and
# fails. It starts no service, and prints nothing when there is nothing to do.

set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

policy=/usr/sbin/policy-rc.d
marker='made by session/internal/servertest/install.sh'

has() { command -v "$1" >/dev/null 2>&1; }

# has_any reports whether one of the files is there.
has_any() {
	for file; do
		[ ! -x "$file" ] || return 0
	done
	return 1
}

# missing prints the packages to install.
missing() {
	has curl || echo curl
	has redis-server || has valkey-server || echo redis-server
	has memcached || echo memcached
	{ has mariadbd && has mariadb-install-db; } || echo mariadb-server
	{ has postgres && has initdb; } || has_any /usr/lib/postgresql/*/bin/initdb || echo postgresql
	if ! has mongod; then
		{ has java && has javac; } || echo default-jdk-headless
		has mvn || echo maven
	fi
}

is_ours() { [ -f "$policy" ] && grep -qsF "$marker" "$policy"; }

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
