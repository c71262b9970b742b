# The body of the parity test, run by /init with busybox sh in /tmp.
# s NAME starts a section; every section is independent of the others.

s() { echo "-- $1"; }
# yes/no of a condition, for facts whose figures differ between machines.
yn() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }

s mounts
for m in /proc /sys /dev /tmp; do
	awk -v m="$m" '$2 == m { print $1, $2, $3 }' /proc/mounts
done
mount | grep -c ' on /tmp type tmpfs '
grep -c ' /proc proc ' /proc/self/mounts

s identity
id
id -u
whoami 2>/dev/null || echo "no passwd"
uname -s
uname -m
hostname
hostname parity
hostname
uname -n
pwd
echo "$0 $# $$" | sed 's/[0-9][0-9]*$/PID/'
[ "$$" -gt 1 ] && echo "pid above 1"
cat /proc/1/comm
echo "$PPID"

s environment
env -i A=1 B='two words' env | sort
env -i PATH=/bin Q=r sh -c 'echo "$PATH $Q"; export -p' | grep Q
X=exported; export X; sh -c 'echo $X'
unset X; sh -c 'echo ${X:-unset}'
X=one sh -c 'echo $X'; echo "${X:-still unset}"

s expansion
a=abcdef; echo ${#a} ${a#ab} ${a%ef} ${a##*c} ${a%%c*} ${a:2:3} ${a/cd/XY}
echo $((1 + 2 * 3)) $((0x10)) $((1 << 20)) $((-7 / 2)) $((-7 % 3)) $((9223372036854775807))
echo ${U:-default} ${U:=assigned} $U ${a:+alternate}
set -- x 'y z' w; echo $# "$2"; shift; echo $# "$1"; echo "$*"; IFS=,; echo "$*"; unset IFS
case abc in a*) echo glob;; *) echo none;; esac
touch g1 g2 g3 .hidden; echo g*; echo 'g*'; echo g[13]; echo nomatch*; rm g1 g2 g3 .hidden
i=0; while [ $i -lt 5 ]; do i=$((i + 1)); [ $i = 2 ] && continue; [ $i = 4 ] && break; echo "i=$i"; done
until [ $i -le 0 ]; do i=$((i - 2)); done; echo $i
f() { local v=inner; echo "$1 $v"; return 3; }; v=outer; f arg; echo $? $v
printf '%s|%5d|%-5s|%05d|%x|%o|%c|%%|%b\n' str 42 ab 7 255 8 z 'a\tb'
printf '%.3f %e %g\n' 3.14159 12345.678 0.0001
echo -n no; echo -n newline; echo; echo -e 'tab\there'

s pipelines
echo hello | cat | cat | cat
seq 1 10 | tac | head -n 3
seq 1 1000 | grep 7 | wc -l
seq 1 100 | sort -rn | tail -n 2
false | true; echo "$?"
true | false; echo "$?"
! true; echo "$?"
set -o pipefail; false | true; echo "$?"; set +o pipefail
yes | head -n 3
yes "long line of text" | head -n 20000 | md5sum
seq 1 40000 | md5sum
seq 1 40000 | cat | cat | cat | wc
dd if=/dev/zero bs=65536 count=64 2>/dev/null | cat | md5sum
(echo out; echo err >&2) 2>&1 | sort
{ seq 1 10000; seq 10001 20000; } | awk '{ s += $1 } END { print s, NR }'
seq 3 | while read n; do echo "n$n"; done
echo 'a b c' | { read x y; echo "$y/$x"; }
yes | head -c 1000000 | wc -c

s redirections
echo one > r; echo two >> r; cat < r
cat r - < /dev/null
(echo o; echo e >&2) > r.out 2> r.err; cat r.out r.err
(echo o; echo e >&2) > r.both 2>&1; cat r.both
ls nonexistent 2> r.e; echo "$?"; cat r.e
exec 3> r.three; echo to3 >&3; echo more >&3; exec 3>&-; cat r.three
exec 4< r.three; read l1 <&4; read l2 <&4; exec 4<&-; echo "$l1 $l2"
exec 5<> r.rw; echo abcdef >&5; exec 5>&-; cat r.rw
set -C; (echo clobber > r) 2>/dev/null; echo "$?"; echo clobber >| r; cat r; set +C
: > r; wc -c r
echo x > /dev/null; cat /dev/null; head -c 4 /dev/zero | od -An -tx1
head -c 100 /dev/urandom | wc -c
head -c 0 /dev/zero | wc -c
echo x > /dev/full; echo "full $?"

s heredocs
cat <<E
expanded $((6 * 7)) $(echo sub)
E
cat <<'E'
literal $HOME $(echo sub)
E
cat <<-E
	tab stripped
	E
cat <<E | tr a-z A-Z
piped here
E
sh <<'E'
echo "script from here-document $((2 + 2))"
E

s substitution
echo "[$(echo a; echo b)]" `echo back`
echo $(echo $(echo nested))
x=$(exit 7); echo $?
x=$(seq 1 20000 | md5sum); echo "$x"
n=$(printf 'trailing\n\n\n'); echo "[$n]"
echo "$(cat <<E
here in substitution
E
)"

s subshells
(cd /; pwd); pwd
(v=changed); echo "$v"
(exit 9); echo $?
{ v=group; }; echo $v
(umask 077; umask); umask
sh -c 'exit 42'; echo $?
sh -c 'kill -9 $$'; echo $?
sh -c 'kill -TERM $$'; echo $?
sh -c 'kill -INT $$; echo not reached'; echo $?
sh -c 'kill -PIPE $$'; echo $?
nosuchcommand_ 2>/dev/null; echo $?
./r.out 2>/dev/null; echo $?
sh -c 'set -e; true; false; echo not reached'; echo $?
sh -c 'set -e; false || echo handled; if false; then :; fi; ! true; echo end'; echo $?
sh -c 'set -u; echo $UNSET_VARIABLE' 2>/dev/null; echo $?
sh -c 'echo "$0" "$1"' zero one

s background
# What wait says of a signal ("Killed") stays out: the shell says it only if the
# job still runs when wait begins, which is a race on any kernel with two CPUs.
sleep 0.05 & p=$!; wait $p; echo $?
(exit 5) & wait $!; echo $?
sh -c 'exit 6' & p1=$!; sh -c 'exit 7' & p2=$!; wait $p2; echo $?; wait $p1; echo $?
for i in 1 2 3 4 5 6 7 8; do (echo "job $i" > bg.$i) & done; wait; cat bg.1 bg.2 bg.3 bg.4 bg.5 bg.6 bg.7 bg.8
sleep 100 & p=$!; kill $p; wait $p 2>/dev/null; echo $?
sleep 100 & p=$!; kill -9 $p; wait $p 2>/dev/null; echo $?
sleep 100 & p=$!; kill -STOP $p; kill -CONT $p; kill -HUP $p; wait $p 2>/dev/null; echo $?
sleep 100 & p=$!; kill -STOP $p; sleep 0.2; awk '{ print $3 }' /proc/$p/stat; kill -KILL $p; wait $p 2>/dev/null; echo $?
kill -0 $$ && echo alive
kill -0 $p 2>/dev/null; echo "gone $?"
wait; echo "all $?"
i=0; while [ $i -lt 40 ]; do (:) & i=$((i + 1)); done; wait; echo "40 forks"
i=0; while [ $i -lt 40 ]; do /bin/true; i=$((i + 1)); done; echo "40 execs"

s traps
sh -c 'trap "echo exiting" EXIT; echo body'
sh -c 'trap "echo exiting" EXIT; exit 3'; echo $?
sh -c 'trap "echo got TERM" TERM; kill -TERM $$; echo after'
sh -c 'trap "echo got INT; exit 4" INT; kill -INT $$; echo not reached'; echo $?
sh -c 'trap "" TERM; kill -TERM $$; echo ignored'
sh -c 'trap "echo x" TERM; trap - TERM; kill -TERM $$; echo not reached'; echo $?
sh -c 'trap "echo usr1" USR1; (sleep 0.1; kill -USR1 $$) & sleep 1 & wait $!; echo "wait $?"; kill %2 2>/dev/null; exit 0' | head -n 2
sh -c 'trap "echo T; exit 0" TERM; : > ready; while :; do sleep 0.05; done' & p=$!; until [ -e ready ]; do sleep 0.05; done; kill $p; wait $p; echo $?
sh -c 'trap "" INT; sh -c "kill -INT \$\$; echo inherited"'
sh -c 'trap "echo hup" HUP; trap' | sed 's/SIG//'

s timeout
timeout 0.3 sleep 10; echo $?
timeout 10 true; echo $?
timeout 10 sh -c 'exit 33'; echo $?
timeout -s KILL 0.3 sleep 10; echo $?
timeout -s INT 1 sh -c 'trap "echo interrupted; exit 9" INT; while :; do sleep 0.05; done'; echo $?

s xargs
seq 1 10 | xargs echo
seq 1 10 | xargs -n 3 echo
seq 1 8 | xargs -P 4 -n 1 sh -c 'echo "x$0"' | sort
seq 1 16 | xargs -P 8 -n 2 sh -c 'echo $(($0 + $1))' | sort -n
printf 'a b\0c d\0' | xargs -0 -n 1 echo
echo x | xargs -I{} echo '<{}>'
seq 1 3 | xargs -n 1 sh -c '[ $0 != 2 ]'; echo $?

s dd
dd if=/dev/zero of=dd.0 bs=1024 count=100 2>/dev/null; wc -c dd.0; md5sum dd.0
seq 1 100000 | dd of=dd.1 bs=4096 2>/dev/null; md5sum dd.1
dd if=dd.1 of=dd.2 bs=1000 skip=10 count=5 2>/dev/null; md5sum dd.2
printf XYZ | dd of=dd.0 bs=1 seek=50 conv=notrunc 2>/dev/null; wc -c dd.0; md5sum dd.0
dd if=/dev/zero of=dd.3 bs=1 count=0 seek=1000000 2>/dev/null; wc -c dd.3; du -k dd.3; md5sum dd.3
dd if=dd.1 bs=100 count=1 2>&1 >/dev/null | sed 's/, .*//'

s sums
printf 'abc' > sum; md5sum sum; sha1sum sum; sha256sum sum; sha512sum sum; crc32 sum
md5sum sum > sum.md5; md5sum -c sum.md5

s text
printf 'b 2\na 10\nc 1\na 9\n' > t
sort t; sort -k2n t; sort -u -k1,1 t; sort -r t
uniq -c <<E | sed 's/^ *//'
x
x
y
E
cut -d' ' -f2 t; cut -c1 t | tr a-c A-C
tr -d 0-9 < t; tr -s 'a' < t; tr '\n' ' ' < t; echo
sed -n '2p' t; sed 's/a/Z/' t; sed '/a/d' t; sed -e 's/\([a-z]\) \([0-9]*\)/\2-\1/' t; sed '$!d' t
sed -i 's/c/see/' t; cat t
grep -n a t; grep -c a t; grep -v a t; grep -E '^(b|s)' t; grep -o '[0-9]*' t; grep -q a t; echo $?; grep -q zzz t; echo $?
head -n 1 t; head -c 3 t; echo; tail -n 1 t; tail -c 3 t; tail -n +3 t
wc t; wc -l < t; nl t; paste -s -d, t; rev t; fold -w 2 t | head -n 3; expand t | head -n 1
seq 1 5 | tac | tr '\n' ' '; echo; seq 10 -3 1 | tr '\n' ' '; echo; seq -w 8 11 | tr '\n' ' '; echo
expr 3 + 4; expr 10 / 3; expr 10 % 3; expr abc : 'a\(.*\)'; expr length hello; expr 1 \> 2; echo $?
printf '1\n2\n3\n' > d1; printf '1\nX\n3\n' > d2; diff d1 d2 | grep '^[<>]'; diff -q d1 d1; echo $?; cmp d1 d2; cmp d1 d1; echo $?
od -An -c sum; hexdump -C sum; xxd sum; base64 sum; base64 sum | base64 -d; echo; uuencode sum x | head -n 1
basename /a/b/c.d .d; dirname /a/b/c; tee t2 < sum; echo; cat t2; echo; strings sum
bc <<E 2>/dev/null
2^64
E
dc -e '2 3 + p' 2>/dev/null
factor 97 360 2>/dev/null
cal 2 2024

s awk
awk 'BEGIN { for (i = 0; i < 5; i++) printf "%d ", i * i; print "" }'
awk '{ n[$1] += $2 } END { for (k in n) print k, n[k] }' t | sort
awk -F: '{ print $2 }' <<E
a:b:c
E
awk 'BEGIN { printf "%.4f %.6g %d %s\n", 10 / 3, 1e10 / 7, 2 ^ 40, 1e300 * 1e10 }'
awk 'BEGIN { print length("hello"), substr("hello", 2, 3), index("hello", "l"), toupper("abc"); s = "aXbXc"; n = split(s, p, "X"); print n, p[3]; gsub(/X/, "-", s); print s }'
awk 'BEGIN { while (("echo piped" | getline l) > 0) print l; system("exit 3"); print "out" | "cat" }'
awk 'function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) } BEGIN { print f(20) }'
awk 'BEGIN { s = 0; for (i = 1; i <= 40000; i++) s += i * 0.5; print s }'

s files
mkdir -p fs/a/b/c; mkdir fs/a 2>/dev/null; echo $?; mkdir -m 750 fs/m; stat -c '%A %n' fs/m
echo data > fs/a/f; cp fs/a/f fs/a/g; mv fs/a/g fs/a/b/h; ln fs/a/f fs/a/hard; ln -s f fs/a/soft; ln -s missing fs/a/broken
cat fs/a/soft; readlink fs/a/soft; readlink -f fs/a/soft; stat -c '%h %s %F' fs/a/f; stat -c '%F %N' fs/a/soft
[ fs/a/f -ef fs/a/hard ] && echo "same inode"; cat fs/a/broken 2>&1; [ -L fs/a/broken ] && echo "is link"; [ -e fs/a/broken ] || echo "dangling"
ln fs/a/f fs/a/hard 2>/dev/null; echo $?; ln -sf newtarget fs/a/broken; readlink fs/a/broken
cp -r fs fs2; find fs2 | sort; cp -a fs fs3; find fs3 -type l | sort; diff -r fs fs3 && echo "copies equal"
chmod 600 fs/a/f; stat -c %a fs/a/f; chmod u+x,go=r fs/a/f; stat -c '%a %A' fs/a/f; chmod 4755 fs/a/f; stat -c %A fs/a/f; chmod 1777 fs/m; stat -c %A fs/m
(umask 027; touch fs/u; mkdir fs/ud); stat -c '%a %n' fs/u fs/ud
chown 1000:100 fs/u; stat -c '%u %g' fs/u; chown 0:0 fs/u
touch -d '2020-01-02 03:04:05' fs/u; stat -c %y fs/u | cut -c1-19; stat -c %Y fs/u; date -r fs/u '+%Y'; [ fs/a/f -nt fs/u ] && echo newer
touch fs/new; [ -f fs/new ] && [ ! -s fs/new ] && echo "empty file"
truncate -s 5000 fs/new; stat -c %s fs/new; truncate -s 3 fs/a/b/h; cat fs/a/b/h; echo
rmdir fs/a 2>&1; rmdir fs/a/b/c; [ -d fs/a/b/c ] || echo removed; rm fs/a/nothing 2>&1; rm -f fs/a/nothing; echo $?
mv fs/a fs/renamed; ls fs/renamed; mv fs/u fs/m; ls fs/m; mv fs/m/u fs/new; stat -c %s fs/new
ls -l fs/renamed | awk 'NR > 1 { print $1, $2, $3, $4, NF }'; ls -a fs/renamed | head -n 2; ls -1F fs; ls -d fs
echo open > un; exec 6< un; rm un; cat <&6; exec 6<&-; [ -e un ] || echo "unlinked"
cd fs; pwd; cd ..; pwd; cd -; cd /tmp; (cd fs/nowhere) 2>/dev/null; echo $?
mkdir many; i=0; while [ $i -lt 200 ]; do : > many/f$i; i=$((i + 1)); done; ls many | wc -l; rm -r many; ls -d many 2>&1
mkfifo ff; stat -c '%F %a' ff; mknod nn c 1 3; stat -c '%F %t %T' nn; echo gone > nn; cat nn
stat -c '%F %t:%T %a' /dev/null /dev/zero /dev/console | sed 's/ [0-7]*$//'
ls -l /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty | awk '{ print $1, $5, $6, $NF }'
test -c /dev/null && test -d /tmp && test ! -f /tmp && echo "test ok"
[ -r r ] && [ -w r ] && [ ! -x r ] && [ -x /bin/busybox ] && echo "access ok"
rm -rf fs fs2 fs3

s find
mkdir -p fd/x/y; touch fd/1.c fd/x/2.c fd/x/y/3.h; echo size > fd/s
find fd | sort; find fd -name '*.c' | sort; find fd -type d | sort; find fd -size +0 -type f; find fd -maxdepth 1 | sort
find fd -name '*.c' -exec echo got {} \; | sort; find fd -name '*.c' -print0 | xargs -0 ls | sort; find fd -name '*.h' -exec rm {} +; find fd -name '*.h' | wc -l
find fd -mmin -60 -type f | wc -l; find fd -perm 644 -type f | wc -l; find fd -newer fd/s -name none

s archive
mkdir -p ar/d; seq 1 5000 > ar/big; echo small > ar/d/s; ln -s ../big ar/d/l; chmod 640 ar/big
tar cf ar.tar ar; tar tf ar.tar | sort; mkdir ex; tar xf ar.tar -C ex; diff -r ar ex/ar && echo "tar equal"; stat -c %a ex/ar/big; readlink ex/ar/d/l
tar czf ar.tgz ar; gzip -t ar.tgz && echo "gzip ok"; rm -rf ex; mkdir ex; tar xzf ar.tgz -C ex; md5sum ex/ar/big
tar cf - ar | (mkdir -p ex2; cd ex2; tar xf -); find ex2 | sort
gzip -c ar/big > big.gz; [ "$(stat -c %s big.gz)" -lt "$(stat -c %s ar/big)" ] && echo smaller; gunzip -c big.gz | cmp - ar/big && echo "gunzip equal"; zcat big.gz | tail -n 1
cp ar/big b2; gzip b2; ls b2.gz; gunzip b2.gz; cmp b2 ar/big && echo "in place"; echo junk | gunzip 2>/dev/null; echo $?
bzip2 -c ar/big | bunzip2 | md5sum
(cd ar && find . | sort | cpio -o -H newc 2>/dev/null) > ar.cpio; mkdir ex3; (cd ex3 && cpio -id 2>/dev/null < ../ar.cpio); diff -r ar ex3 && echo "cpio equal"
seq 1 30000 | gzip | gunzip | md5sum
rm -rf ar ex ex2 ex3

s fifo
mkfifo p; echo through > p & cat p; wait
(seq 1 10000 > p) & md5sum < p; wait
mkfifo q; (read x < p; echo "reply to $x" > q) & echo question > p; cat q; wait; rm p q

s stat
touch st; stat st | sed -n 's/^ *File: .\{0,1\}\(st\).*/\1/p'; stat -c '%n %s %a %u %g %U' st 2>/dev/null | cut -d' ' -f1-5
stat -f -c '%T %s' /tmp; stat -f -c '%T' /proc; stat -f -c %T /sys
stat -c '%F' /proc /proc/self/exe /proc/1/stat /sys /dev
stat -c %B st; stat nothere 2>&1

s space
df -k /tmp | awk 'NR == 2 { print $1, $2, $6 }'; df /tmp | head -n 1 | awk '{ print $1, $NF }'
mkdir du; dd if=/dev/zero of=du/x bs=4096 count=25 2>/dev/null; du -sk du; du -k du/x; rm -rf du
before=$(df -k /tmp | awk 'NR == 2 { print $3 }'); dd if=/dev/zero of=sp bs=1M count=4 2>/dev/null; after=$(df -k /tmp | awk 'NR == 2 { print $3 }'); echo $((after - before)); rm sp
dd if=/dev/zero of=toobig bs=1M count=20 2>&1 | tail -n 1 | sed 's/.*: //' | grep -c .; [ "$(stat -c %s toobig)" -gt 14000000 ] && [ "$(stat -c %s toobig)" -lt 16777216 ] && echo 'no space'; rm toobig; echo ok > small; cat small

s memory
free | awk 'NR == 1 { print $1, $2, $3 } NR == 2 { print $1, NF, ($2 > 1000), ($2 >= $3), ($2 >= $4) }'
free -m | awk 'NR == 2 { print ($2 > 1) }'
grep -c -E '^(MemTotal|MemFree|MemAvailable|Buffers|Cached):  *[0-9]+ kB$' /proc/meminfo

s proc
yn test -d /proc/self; yn test -r /proc/self/maps; yn test -L /proc/self/exe
readlink /proc/self/exe; cat /proc/self/cmdline | tr '\0' ' '; echo; cat /proc/self/comm; (cd /; readlink /proc/self/cwd)
sh -c 'cat /proc/$$/status' | grep -E '^(Name|State|Uid|Gid|Threads):' | tr '\t' ' '
awk '{ print NF, $2, $3 }' /proc/self/stat; sh -c 'tr "\0" "\n" < /proc/$$/environ | grep -c ^PATH='
ls /proc/self/fd | head -n 3; readlink /proc/self/fd/1 | sed 's/[0-9]//g'
awk '{ print NF }' /proc/loadavg /proc/uptime; yn grep -q '^cpu ' /proc/stat; yn grep -q ^processor /proc/cpuinfo; yn grep -q . /proc/version
cut -d' ' -f1 /proc/version; [ "$(nproc)" -ge 1 ] && echo "nproc ok"; [ "$(grep -c ^processor /proc/cpuinfo)" = "$(nproc)" ] && echo "cpuinfo agrees"
ps | awk '$1 == 1 { print $1, $2 } NR == 1 { print $1, $2 }'; ps -o pid,comm | awk '$1 == 1'
sleep 50 & p=$!; until pidof sleep | grep -q -w $p; do :; done; echo found; kill $p; wait $p 2>/dev/null; echo $?
cat /sys/class/tty/console/active; cat /proc/sys/kernel/ostype; yn grep -q . /proc/sys/kernel/osrelease; yn test -s /proc/version; yn test -r /proc/cmdline; grep -c tmpfs /proc/filesystems | sed 's/[1-9]/some/'
killall nosuchprocess 2>&1

s dmesg
yn dmesg; [ "$(dmesg | wc -l)" -gt 5 ] && echo "log has lines"; dmesg | head -n 1 | grep -c '^\[ *[0-9]*\.[0-9]*\]'

s time
[ "$(date +%Y)" -ge 1970 ] && echo "year ok"; date -u -d @0 '+%Y-%m-%d %H:%M:%S'; date -u -d '2024-02-29 12:00:00' +%s; date -u -d @1700000000 +%A
a=$(date +%s); sleep 1; b=$(date +%s); [ $((b - a)) -ge 1 ] && [ $((b - a)) -le 5 ] && echo "slept"
read up rest < /proc/uptime; sleep 0.3; read up2 rest < /proc/uptime; awk -v a=$up -v b=$up2 'BEGIN { print (b - a >= 0.25) }'
time -p true 2>&1 | awk '{ print $1 }'; usleep 1000; echo $?
TZ=UTC-3 date -d @0 +%H

s input
printf 'one two three\nfour\n' | { read a b; echo "$a|$b"; read c; echo "$c"; read d; echo "eof $?"; }
printf 'back\\slash\n' | { read -r a; echo "$a"; }; printf 'a:b:c\n' | { IFS=: read x y z; echo "$z$y$x"; }
read -t 1 x < /dev/null; echo "null $?"
(sleep 3 | { read -t 0.3 x; echo "timed out $?"; }) 2>/dev/null
printf 'abc' | { read -n 2 x; echo "$x"; }

s limits
ulimit -n | grep -c '^[0-9]*$\|unlimited'; (ulimit -n 20; ulimit -n); (ulimit -c 0; ulimit -c); (ulimit -f 8; dd if=/dev/zero of=lim bs=1024 count=100 2>/dev/null; stat -c %s lim); rm -f lim

s exec
exec_test() { (exec sh -c 'echo replaced'; echo not reached); }; exec_test
printf '#!/bin/sh\necho "script $1"\n' > sc; chmod +x sc; ./sc arg; printf '#!/bin/awk -f\nBEGIN { print "awk script" }\n' > sa; chmod +x sa; ./sa
printf '#!/nonexistent/interp\n' > sb; chmod +x sb; ./sb 2>/dev/null; echo $?; printf 'echo no shebang\n' > sn; chmod +x sn; ./sn
printf '\177ELFgarbage' > se; chmod +x se; ./se 2>/dev/null; echo $?; chmod -x sc; ./sc 2>/dev/null; echo $?
cp /bin/busybox busybox-copy; ./busybox-copy echo "copied binary"; ln -s busybox-copy echo; ./echo "by applet name"; rm busybox-copy echo
which ls; type cd; command -v sh; setsid sh -c 'echo "new session"'; nohup echo hup 2>/dev/null
chroot / /bin/echo chrooted; unshare 2>/dev/null true; echo "env -u:"; FOO=1 env -u FOO sh -c 'echo ${FOO:-none}'
sh -c 'sh -c "sh -c \"sh -c \\\"exit 11\\\"\""'; echo $?
args=$(seq 1 5000); echo $args | wc; /bin/echo $args | md5sum

s pressure
i=0; while [ $i -lt 20 ]; do seq 1 1000 | sort -rn | md5sum & i=$((i + 1)); done > prs; wait; sort -u prs; wc -l < prs
for i in 1 2 3 4; do (dd if=/dev/zero bs=64k count=32 2>/dev/null | tr '\0' 'x' | md5sum) & done > prs2; wait; sort prs2 | uniq -c | sed 's/^ *//'
mkdir pt; for i in 1 2 3 4; do (j=0; while [ $j -lt 25 ]; do echo $i > pt/$i.$j; mv pt/$i.$j pt/m$i.$j; j=$((j + 1)); done) & done; wait; ls pt | wc -l; cat pt/* | sort | uniq -c | sed 's/^ *//'; rm -r pt

s done
