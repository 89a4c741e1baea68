package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// sshImageName is what the image with ssh is called in its home.
const sshImageName = "ssh"

// sshScript runs in the guest for as long as the measurement does. It makes what
// both servers need, and then times, by the guest's clock and from within one
// shell, as many rounds of a contender as it is asked for: nothing of the way
// from the host to the guest is in ssh's times. The keys are Ed25519, which is
// the quickest; servers and clients look nothing up and log nothing.
const sshScript = `
export LC_ALL=C HOME=/root
set -e
mkdir -p -m 700 ~/.ssh /run/sshd
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 </dev/null
cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys
dropbearkey -t ed25519 -f /run/hostkey >/dev/null 2>&1
dropbearconvert openssh dropbear ~/.ssh/id_ed25519 ~/.ssh/id_dropbear 2>/dev/null
dropbear -s -r /run/hostkey -p 127.0.0.1:2022 -P /run/dropbear.pid
/usr/sbin/sshd -q -p 2222 -h /etc/ssh/ssh_host_ed25519_key -o ListenAddress=127.0.0.1 -o UsePAM=no -o UseDNS=no \
	-o PrintMotd=no -o PrintLastLog=no -o PermitRootLogin=prohibit-password -o MaxStartups=100
quick='-q -F none -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o GSSAPIAuthentication=no -o BatchMode=yes'
fork() { /bin/true; }
dropbear() { dbclient -y -y -T -i ~/.ssh/id_dropbear -p 2022 root@127.0.0.1 true 2>/dev/null; }
openssh() { ssh $quick root@127.0.0.1 true; }
mux() { ssh -q -F none -S /run/mux root@127.0.0.1 true; }
for i in 1 2 3 4 5 6 7 8 9 10; do openssh </dev/null && break; sleep 0.2; done
ssh $quick -f -N -M -S /run/mux root@127.0.0.1 >/dev/null 2>&1 </dev/null
set +e
for c in fork dropbear openssh mux; do
	$c </dev/null || { echo "$c: status $?"; exit 1; }
done
echo ready
while read -r contender rounds; do
	took=()
	for ((i = 0; i < rounds; i++)); do
		begin=$EPOCHREALTIME
		$contender </dev/null
		status=$?
		end=$EPOCHREALTIME
		[ $status = 0 ] || { echo "$contender: status $status"; exit 1; }
		took+=($((${end/./} - ${begin/./})))
	done
	echo "${took[@]}"
done
`

// sshGuest is the script at work.
type sshGuest struct {
	cmd    *sandbox.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr strings.Builder
}

// newSSHGuest starts the servers.
func newSSHGuest(ctx context.Context, sb *sandbox.Sandbox) (*sshGuest, error) {
	g := &sshGuest{cmd: sb.Command(ctx, "bash", "-c", sshScript)}
	g.cmd.Stderr = &g.stderr
	var err error
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	g.out = bufio.NewScanner(out)
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := g.line(); err != nil || line != "ready" {
		return nil, fmt.Errorf("ssh in the guest: %q: %w", line, err)
	}
	return g, nil
}

func (g *sshGuest) line() (string, error) {
	if !g.out.Scan() {
		_ = g.cmd.Kill() // what it started holds its stderr
		return "", errors.Join(g.out.Err(), g.cmd.Wait(), errors.New(strings.TrimSpace(g.stderr.String())))
	}
	return g.out.Text(), nil
}

// rounds has the guest time a contender.
func (g *sshGuest) rounds(contender string, n int) ([]time.Duration, error) {
	start := time.Now()
	if _, err := fmt.Fprintln(g.in, contender, n); err != nil {
		return nil, err
	}
	line, err := g.line()
	if err != nil {
		return nil, err
	}
	outside := time.Since(start)
	var took []time.Duration
	for f := range strings.FieldsSeq(line) {
		us, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("ssh in the guest: %q", line)
		}
		took = append(took, time.Duration(us)*time.Microsecond)
		outside -= took[len(took)-1]
	}
	if len(took) != n || outside < 0 {
		return nil, fmt.Errorf("ssh in the guest: %d times of %d, %v more than the host measured", len(took), n, -outside)
	}
	return took, nil
}

// end ends the script and all that it started.
func (g *sshGuest) end() error {
	_ = g.in.Close()
	return g.cmd.Kill()
}
