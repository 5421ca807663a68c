# What is done with the service in the virtual machine; `boot.rs` reads the lines that begin with `trial:`.
exec >/dev/ttyS1 2>&1
say() { echo "trial: $1: $2"; }
property() { systemctl show --property "$1" --value mux; }
answer() { curl --silent --max-time 60 localhost:3000 | tail -1; }
log() { journalctl --no-pager --unit mux --output cat; }
# Waits until a command prints something with these words in it; prints it.
until_has() {
    words=$1
    shift
    for _ in $(seq 200); do
        said=$("$@")
        case $said in *"$words"*) break ;; esac
        sleep 0.2
    done
    echo "$said" | grep -- "$words" | tail -1
}
ip link set lo up

say 'after the boot' "$(stat --format '%A %U %G %n' /run/mux)"
systemctl start mux
say started "$(systemctl is-active mux)"
first=$(property MainPID)
say answer "$(answer)"
say relay "$(mux status | grep '^relay')"
say capabilities "$(grep CapEff "/proc/$first/status" | tr '\t' ' ')"
say seccomp "$(grep Seccomp: "/proc/$first/status" | tr '\t' ' ')"
say landlock "$(log | grep sandbox)"

sed -i 's/builtin:whoami/builtin:discard/' /etc/mux/rules.toml
systemctl reload mux
say reloaded "$(until_has 'rules: 1 changed' log)"
sed -i 's/builtin:discard/builtin:whoami/' /etc/mux/rules.toml
systemctl reload mux
echo 'nonsense = 1' >>/etc/mux/rules.toml
systemctl reload mux
say 'reloaded with wrong rules' "$(until_has 'nothing has changed' log)"
sed -i '$d' /etc/mux/rules.toml

kill -9 "$first"
until_has 1 property NRestarts
say killed "$(until_has active systemctl is-active mux)"
until_has Started log
second=$(property MainPID)
say 'another process after the kill' "$([ "$second" != "$first" ] && echo yes)"
say 'answer after the kill' "$(until_has mux/ answer)"

dpkg --force-confold --install /newer.deb
say upgraded "$(systemctl is-active mux)"
third=$(property MainPID)
say 'another process after the upgrade' "$([ "$third" != "$second" ] && echo yes)"
say 'answer after the upgrade' "$(answer)"
# While the old one is there, it would serve again.
for _ in $(seq 200); do [ -d "/proc/$second" ] || break; sleep 0.2; done
# Its parent was another process, and it is no child of systemd's that was told so.
kill -9 "$third"
until_has 2 property NRestarts
say 'killed after the upgrade' "$(until_has active systemctl is-active mux)"
say 'answer after that kill' "$(until_has mux/ answer)"

systemctl stop mux
say stopped "$(systemctl is-active mux) $(property Result)"
say 'refused system calls' "$(dmesg | grep -c type=1326)"
systemctl start mux
dpkg --remove mux
say removed "$(systemctl is-active mux)"
log | tail -60
systemctl --force poweroff
