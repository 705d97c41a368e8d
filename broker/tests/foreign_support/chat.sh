# A client in Bash alone: what it sends, and what it is sent within a while. A script counts on one packet per line.
exec 3<>"/dev/tcp/127.0.0.1/$1"
send() { printf '%s\n' "$1" >&3; echo "C: $1"; }
# So many lines.
recv() { local l n; for ((n = 0; n < $1; n++)); do IFS= read -r -t 30 l <&3 || exit 1; echo "S: $l"; done; }
send '[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg]}> #:[0 0]> 1>]]'; recv 1
send '[[1 <A <Observe <group <rec Present> {0: <bind <_>>}> #:[0 1]> 2>] [1 <A <Observe <group <rec Says> {0: <bind <_>> 1: <bind <_>>}> #:[0 2]> 3>]]'; recv 0
send '[[1 <A <Present "bash"> 4>]]'; recv 1
send '[[1 <M <Says "bash" "hi there">>]]'; recv 1
send '[[1 <S #:[0 3]>]]'; recv 1
send '[[1 <R 4>]]'; recv 1
exec 3<&- 3>&-
