#!/bin/sh
# Runs after an installation or an upgrade, of a .deb ("configure", the old version) or an .rpm (how many are installed).
set -e
root=${DPKG_ROOT:-}

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers ${root:+--root="$root"} secretstack.conf
elif ! getent passwd secretstack >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/secretstack --shell /usr/sbin/nologin secretstack
fi

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart secretstack-hub.service # on an upgrade, if it runs
fi

case "$1:${2:-}" in
configure: | 1:)
	echo "To run a hub on this machine: edit /etc/secretstack/hub.toml, then systemctl enable --now secretstack-hub"
	;;
esac
