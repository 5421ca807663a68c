#!/bin/sh
# Has mux reload its rules when the files that it reads have changed.
#
#   reload.sh DIRECTORY SECONDS SOCKET
#
# A ConfigMap is mounted as links into a directory that is replaced as a whole, within about a minute
# after `kubectl apply`. Then mux is told; if the new rules are wrong it goes on with the old ones, and
# says why, here and in its log.
set -u
directory=$1 seconds=$2 socket=$3

# The container's first process, which no signal ends unless it asks for it.
trap 'exit 0' TERM INT

sums() {
    find -L "$directory" -type f -not -path '*/..*' -exec cksum {} + | sort
}

# None at first: what has changed between mux's start and this one's is not missed.
known=
while :; do
    sleep "$seconds" &
    wait $!
    now=$(sums)
    [ "$now" = "$known" ] && continue
    # Not while it starts.
    mux status --socket "$socket" >/dev/null || continue
    mux reload --socket "$socket"
    # Also if it has failed: the same rules will not become right.
    known=$now
done
