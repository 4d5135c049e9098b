#!/bin/sh
# Runs before a removal, of a .deb ("remove") or an .rpm ("0"), and before an upgrade, where it does nothing.
set -e
case "$1" in
remove | 0)
	if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
		systemctl disable --now secretstack-hub.service
	fi
	;;
esac
