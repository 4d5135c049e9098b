package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/keys"
)

// roleNode is a hub that may be one of several nodes.
const roleNode = "node"

// nodeCount is how many nodes a hub has in the rows about several.
const nodeCount = 3

// nodeConfig is what a node is told.
type nodeConfig struct {
	Dir     string
	Name    string
	Listen  string        // where peers find it
	Engine  string        // where other nodes' engines do
	Engines []string      // of all nodes; none: it is no node, but a hub of its own
	Silence time.Duration // before its memory is looked at
}

// credentialFile is in the folder in which all nodes have theirs.
const credentialFile = "cluster"

func serveNode(ctx context.Context, args []string) error {
	var n nodeConfig
	if err := json.Unmarshal([]byte(args[1]), &n); err != nil {
		return err
	}
	cfg := hub.Config{Dir: n.Dir, Listen: []string{n.Listen}}
	// Presences are looked at for longer than peers may be silent.
	cfg.Limits.Inactivity = time.Hour
	if n.Engines != nil {
		cred, err := credential.Load(filepath.Join(filepath.Dir(n.Dir), credentialFile))
		if err != nil {
			return err
		}
		cfg.Logger = slog.New(slog.DiscardHandler) // nodes that start and end together complain of each other
		cfg.Cluster = &hub.Cluster{
			Credential: cred, Name: n.Name, Public: "net:" + n.Listen, Listen: n.Engine, Peers: n.Engines, Links: "127.0.0.1:0",
		}
	}
	profile := os.Getenv(hubProfileVariable)
	if profile != "" {
		profile += "." + n.Name
	}
	return serveHubOf(ctx, cfg, args[:1], profile, n.Silence)
}

// nodes are the nodes of one hub, each a process. They have a folder, which is removed in the end.
type nodes struct {
	dir  string
	told []nodeConfig
	all  []*role
	at   []hubAt
}

// startNodes starts so many nodes of one hub, or with one a hub that is no node. Their memory is looked at after a silence.
func startNodes(ctx context.Context, n int, silence time.Duration) (*nodes, error) {
	dir, err := os.MkdirTemp("", "bench-nodes-")
	if err != nil {
		return nil, err
	}
	s := &nodes{dir: dir, all: make([]*role, n), at: make([]hubAt, n)}
	if err := s.start(ctx, n, silence); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *nodes) start(ctx context.Context, n int, silence time.Duration) error {
	var engines []string
	if n > 1 {
		if err := makeCredential(filepath.Join(s.dir, credentialFile)); err != nil {
			return err
		}
		for range n {
			engine, err := freeAddress(ctx)
			if err != nil {
				return err
			}
			engines = append(engines, engine)
		}
	}
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		told := nodeConfig{Dir: filepath.Join(s.dir, name), Name: name, Engines: engines, Silence: silence}
		var err error
		if told.Listen, err = freeAddress(ctx); err != nil {
			return err
		}
		if n > 1 {
			told.Engine = engines[i]
		}
		s.told = append(s.told, told)
		if err := s.launch(ctx, i); err != nil {
			return err
		}
	}
	for i := range n { // they wait for each other before they say anything
		if err := s.ready(i); err != nil {
			return err
		}
	}
	return nil
}

func makeCredential(path string) error {
	identity, err := keys.Generate()
	if err != nil {
		return err
	}
	cred, err := credential.New("bench", identity)
	if err != nil {
		return err
	}
	return cred.Save(path)
}

// launch starts a node, again if it has ended.
func (s *nodes) launch(ctx context.Context, i int) error {
	told, err := json.Marshal(s.told[i])
	if err != nil {
		return err
	}
	s.all[i], err = startRole(context.WithoutCancel(ctx), roleNode, "", string(told))
	return err
}

// ready waits until a node serves.
func (s *nodes) ready(i int) (err error) {
	s.at[i], err = s.all[i].hubAt()
	return err
}

// kill ends a node at once.
func (s *nodes) kill(i int) error {
	if err := s.all[i].cmd.Process.Kill(); err != nil {
		return err
	}
	_ = s.all[i].cmd.Wait() // it was killed
	s.all[i] = nil
	return nil
}

func (s *nodes) pids() (all []int) {
	for _, node := range s.all {
		all = append(all, node.pid())
	}
	return all
}

// memory is how much each of them has when it has become steady.
func (s *nodes) memory() ([]int, error) {
	sizes, errs := make([]int, len(s.all)), make([]error, len(s.all))
	var asking sync.WaitGroup
	for i, node := range s.all {
		asking.Go(func() { sizes[i], errs[i] = node.memory() })
	}
	asking.Wait()
	return sizes, errors.Join(errs...)
}

func (s *nodes) Close() error {
	var ending sync.WaitGroup
	for _, node := range s.all {
		if node != nil {
			ending.Go(node.stop)
		}
	}
	ending.Wait()
	return os.RemoveAll(s.dir)
}

// sharedNodes are those that several peers of a row use, so that what one node and what two nodes do is done by the same
// ones.
type sharedNodes struct {
	mu    sync.Mutex // held while nodes start and end: whoever comes then waits for that
	users int
	nodes *nodes
}

// hold keeps nodes from ending between two that use them, until leave is called.
func (s *sharedNodes) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *sharedNodes) enter(ctx context.Context) (*nodes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		var err error
		if s.nodes, err = startNodes(ctx, nodeCount, 0); err != nil {
			return nil, err
		}
	}
	s.users++
	return s.nodes, nil
}

func (s *sharedNodes) leave() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 || s.nodes == nil {
		return nil
	}
	ended := s.nodes
	s.nodes = nil
	return ended.Close()
}

// relay connects a courier to the first node and a visitor to the one with that number.
func (s *sharedNodes) relay(ctx context.Context, visitor int) (*hubRelay, error) {
	all, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	program := sharedNode{all.all[0], s}
	return connectHubRelay(ctx, &hubRelay{process: program, other: all.all[visitor], at: all.at[0], from: all.at[visitor]})
}

// sharedNode is a node as a process that others use too.
type sharedNode struct {
	*role
	shared *sharedNodes
}

func (n sharedNode) Close() error { return n.shared.leave() }
