#!/bin/sh
# Runs after a removal. The data stays: it holds the hub's identity and everybody's ids.
set -e
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1" = purge ] && [ -d "${DPKG_ROOT:-}/var/lib/secretstack" ]; then
	echo "The hub's identity and data are still in /var/lib/secretstack; remove that folder if nobody needs them."
fi
