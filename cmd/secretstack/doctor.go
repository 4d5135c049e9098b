package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// How a thing is that the doctor has looked at.
const (
	fine   = "ok"
	odd    = "warn"
	broken = "fail"
)

// finding is what the doctor says about one thing.
type finding struct {
	About  string `json:"about"`
	State  string `json:"state"` // "ok", "warn" or "fail"
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // what to do about it
}

const (
	doctorTimeout = 10 * time.Second // for each thing that has to answer
	expiresSoon   = 7 * 24 * time.Hour
	littleSpace   = 1 << 30 // bytes
	mostClockSkew = time.Minute
)

var errBroken = errors.New("something is broken")

func newDoctor(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "show what is running, what is wrong, and what to do about it",
		Long: `doctor looks at your identity, your courier, the hubs that it is at, and the hub on this machine, and prints a line about
each: ok, warn or fail, and what can be done. It changes nothing, and ends with 1 if something is broken. Hubs are asked over
HTTP for their key and their time.`,
		Args: argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.root == "" {
				return usagef("--root is empty")
			}
			d := &doctor{g: g, now: time.Now}
			d.examine(cmd.Context())
			return d.report()
		},
	}
}

// doctor collects findings.
type doctor struct {
	g        *globals
	now      func() time.Time
	self     keys.PublicKey // zero: not known
	findings []finding
}

func (d *doctor) add(about, state, text, advice string) {
	d.findings = append(d.findings, finding{about, state, text, advice})
}

func (d *doctor) examine(ctx context.Context) {
	d.identity()
	d.courier(ctx)
	d.hub(ctx)
}

// report prints what was found. Its error says that something is broken.
func (d *doctor) report() error {
	if d.g.json {
		if err := d.g.printJSON(d.findings); err != nil {
			return err
		}
	}
	var err error
	for _, f := range d.findings {
		if f.State == broken {
			err = errBroken
		}
		if d.g.json {
			continue
		}
		fmt.Fprintf(d.g.out, "%-4s  %s: %s", f.State, printable(f.About), printable(f.Text))
		if f.Advice != "" {
			fmt.Fprintf(d.g.out, "; %s", printable(f.Advice))
		}
		fmt.Fprintln(d.g.out)
	}
	return err
}

// errProtected is why a protected secret file is not opened: the doctor asks nothing.
var errProtected = errors.New("protected by a passphrase")

func (d *doctor) identity() {
	const about = "identity"
	info, err := os.Stat(d.g.root)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		d.add("folder", broken, "others can write to "+d.g.root, "run: chmod 700 "+d.g.root)
	}
	file := d.g.secretFile()
	id, err := keys.Load(file, keys.FileOptions{Passphrase: func() ([]byte, error) { return nil, errProtected }})
	switch {
	case err == nil:
		d.self = id.Public()
		d.add(about, fine, id.Public().String()+", in "+file, "")
	case errors.Is(err, errProtected):
		d.add(about, fine, "in "+file+", protected by a passphrase", "")
	case errors.Is(err, fs.ErrNotExist) && d.hasHub(): // a hub's folder needs none
	case errors.Is(err, fs.ErrNotExist):
		d.add(about, odd, "there is none in "+d.g.root, "to make one: secretstack keys")
	default:
		d.add(about, broken, plain(err), "")
	}
}

// hasHub reports whether a hub has been started with our root: whoever operates one needs no identity and no courier there.
func (d *doctor) hasHub() bool {
	_, err := os.Stat(d.g.hubDir())
	return err == nil
}

func (d *doctor) courier(ctx context.Context) {
	const about = "courier"
	options, err := d.g.loadOptions()
	if err != nil {
		d.add(about, broken, plain(err), "")
		return
	}
	if _, err := os.Stat(d.g.optionsFile()); err != nil {
		if d.self.IsZero() && d.hasHub() {
			return
		}
		d.add(about, odd, "none has been started with this --root", "to have one: secretstack courier")
		return
	}
	status, err := d.askCourier(ctx)
	switch {
	case errors.Is(err, courier.ErrNotRunning):
		d.add(about, broken, "it is not running", "start it: secretstack courier")
		for _, address := range options.Hubs {
			address = withoutInvite(address)
			d.reach(ctx, "hub "+multiserver.Redacted(address), address, broken)
		}
		return
	case err != nil:
		d.add(about, broken, "it does not answer: "+plain(ownersText(err)), "end it and start it again: secretstack courier")
		return
	case !d.self.IsZero() && !status.Key.Equal(d.self):
		d.add(about, broken, "it runs with the key "+status.Key.String()+", which is not yours any more", "end it and start it again: secretstack courier")
	default:
		d.add(about, fine, "running since "+status.Started.Local().Format(time.DateTime), "")
	}
	for _, alert := range status.Alerts {
		d.add("contact", odd, alert, "see secretstack contact list")
	}
	for _, h := range status.Hubs {
		d.atHub(ctx, h)
	}
}

func (d *doctor) askCourier(ctx context.Context) (status courier.Status, err error) {
	ctx, stop := context.WithTimeout(ctx, doctorTimeout)
	defer stop()
	c, err := courier.Dial(ctx, d.g.courierDir())
	if err != nil {
		return status, err
	}
	status, err = c.Status(ctx)
	return status, errors.Join(err, c.Close())
}

// atHub says how the courier stands with one hub.
func (d *doctor) atHub(ctx context.Context, h courier.HubStatus) {
	about := "hub " + h.Address
	if !d.reach(ctx, about, h.Address, broken) {
		return
	}
	switch {
	case !h.Online && h.Trouble != "":
		d.add(about, broken, "your courier is not there"+troubleText(h, ": %s"), "it tries again by itself; ask who runs the hub if that goes on")
	case !h.Online:
		d.add(about, broken, "your courier is not there", "it tries again by itself")
	case h.Key.IsZero():
		d.add(about, fine, "your courier is there as "+h.ID.String(), "")
	case !h.Mailbox:
		d.add(about, odd, "your courier is there as "+h.ID.String()+", and the hub keeps no mail for it yet", "look again in a minute; not all hubs do")
	default:
		d.add(about, fine, "your courier is there as "+h.ID.String()+", with a mailbox", "")
	}
}

// hub looks at the hub on this machine, if there is one.
func (d *doctor) hub(ctx context.Context) {
	const about = "hub here"
	if _, err := os.Stat(d.g.hubDir()); err != nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, doctorTimeout)
	defer stop()
	s, err := ask[hub.ControlStatus](ctx, d.g, "status")
	if errors.Is(err, errNoHub) {
		advice := "start it: secretstack hub"
		if _, err := os.Stat(d.g.credentialFile()); err == nil {
			advice = "start it, unless it waits for other nodes: its log says so"
		}
		d.add(about, odd, "it is not running, or has no control socket", advice)
		return
	}
	if err != nil {
		d.add(about, broken, "it does not answer: "+plain(err), "its log may say why")
		return
	}
	switch {
	case s.Cluster != nil && s.Cluster.Alone:
		d.add(about, broken, "it is cut off from the majority of nodes, serves what it knows, and registers nobody", "start the others, or see why they are not reached")
	case s.Problem != "":
		d.add(about, broken, "nothing can be registered: "+s.Problem, "see docs/OPERATING.md")
	case s.Draining:
		d.add(about, odd, "it is about to end", "")
	default:
		d.add(about, fine, fmt.Sprintf("running since %s, %d ids, %d peers", s.Started.Local().Format(time.DateTime), s.Records, s.Peers), "")
	}
	d.hubNodes(s)
	d.hubDisk(s)
	d.hubCertificates(s)
	for _, address := range s.Addresses {
		if d.reach(ctx, about, address, odd) { // not every router leads back in what comes from inside
			d.add(about, fine, "it answers at "+address, "")
		}
	}
}

// hubNodes tells of the other nodes of a cluster.
func (d *doctor) hubNodes(s hub.ControlStatus) {
	if s.Cluster == nil {
		return
	}
	for _, n := range s.Cluster.Nodes {
		about, state := "node "+n.Name, fine
		if n.Self {
			continue
		}
		advice := n.Advice(s.Version)
		switch {
		case n.Refused, !n.Seen && n.Holds:
			state = broken
		case advice != "":
			state = odd
		}
		text := n.State()
		if n.Seen {
			text += fmt.Sprintf(", %s, %s", counted(n.Couriers, "courier"), counted(n.Peers, "peer"))
		}
		d.add(about, state, text, advice)
	}
}

func (d *doctor) hubDisk(s hub.ControlStatus) {
	if s.Free >= 0 && s.Free < littleSpace {
		d.add("hub here", odd, fmt.Sprintf("only %d MiB are free on its disk", s.Free>>20), "make room before it can take no more")
	}
}

func (d *doctor) hubCertificates(s hub.ControlStatus) {
	for _, problem := range s.Problems {
		d.add("hub here", broken, problem, "see docs/OPERATING.md, certificates")
	}
	for _, c := range s.Certificates {
		switch {
		case c.Problem != "":
			d.add("hub here", odd, "the certificate for "+c.Name+" cannot be renewed: "+c.Problem, "see docs/OPERATING.md, certificates")
		case !c.Expires.IsZero() && c.Expires.After(d.now()) && c.Expires.Sub(d.now()) < expiresSoon:
			d.add("hub here", odd, "the certificate for "+c.Name+" expires on "+c.Expires.Local().Format(time.DateOnly), "renew it")
		}
	}
}
