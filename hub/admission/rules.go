package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/hub/registry"
)

// A heldRule is a stored rule in memory.
type heldRule struct {
	Rule
	revision uint64
}

// SetRule makes a rule hold, in place of the stored one about the same subject if there is one. When it returns, the rule is
// on disk and holds here. Its error is [ErrRule], [ErrListFull], [ErrUnavailable], or that of ctx.
func (a *Admission) SetRule(ctx context.Context, r Rule) error {
	r, err := r.normal()
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		return fmt.Errorf("%w: the rule would have expired already", ErrRule)
	}
	if r.Created.IsZero() {
		r.Created, _ = normalTime(now)
	}
	if err := a.roomForRule(r.Subject); err != nil {
		return err
	}
	value, err := encodeRule(r)
	if err != nil {
		return fmt.Errorf("admission: encode a rule: %w", err)
	}
	revision, err := a.ruleFeed.bucket.Put(ctx, r.Subject.String(), value)
	if err != nil {
		return failure(err)
	}
	a.log.Info("admission: rule set", "rule", r.String())
	return a.settle(ctx, func() bool { return a.ruleFeed.seen >= revision })
}

func (a *Admission) roomForRule(s Subject) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, there := a.rules[s]; !there && len(a.rules) >= a.cfg.MaxRules {
		return fmt.Errorf("%w: there are %d rules", ErrListFull, len(a.rules))
	}
	return nil
}

// RemoveRule removes the stored rule about a subject. When it returns, that is on disk and holds here. Its error is
// [ErrNotFound], [ErrUnavailable], or that of ctx.
func (a *Admission) RemoveRule(ctx context.Context, s Subject) error {
	a.mu.RLock()
	before, there := a.rules[s]
	a.mu.RUnlock()
	if !there {
		return fmt.Errorf("%w: no rule about %v is stored", ErrNotFound, s)
	}
	if err := a.ruleFeed.bucket.Delete(ctx, s.String()); err != nil {
		return failure(err)
	}
	a.log.Info("admission: rule removed", "subject", s.String())
	return a.settle(ctx, func() bool {
		now, there := a.rules[s]
		return !there || now.revision != before.revision
	})
}

// Rules lists the rules: those of the configuration in its order, then the stored ones in the order of their subjects' texts.
// Stored rules that have expired are in it for a day more.
func (a *Admission) Rules() []Rule {
	a.mu.RLock()
	all := slices.Clone(a.fixed)
	fixed := len(all)
	for _, r := range a.rules {
		all = append(all, r.Rule)
	}
	a.mu.RUnlock()
	slices.SortFunc(all[fixed:], func(a, b Rule) int { return strings.Compare(a.Subject.String(), b.Subject.String()) })
	return all
}

// SetFixed replaces the rules of the configuration. They hold when it returns. Its error is [ErrRule]; then nothing has
// changed.
func (a *Admission) SetFixed(rules []Rule) error {
	fixed, err := normalFixed(rules)
	if err != nil {
		return err
	}
	a.mu.Lock()
	for _, r := range a.fixed {
		a.setOpinion(fromConfig, r.Subject, opinion{})
	}
	for _, r := range fixed {
		a.setOpinion(fromConfig, r.Subject, r.opinion())
		a.expect(r.Expires)
	}
	a.fixed = fixed
	a.mu.Unlock()
	a.poke()
	return nil
}

func normalFixed(rules []Rule) ([]Rule, error) {
	fixed := make([]Rule, 0, len(rules))
	seen := map[Subject]bool{}
	for _, r := range rules {
		r, err := r.normal()
		if err != nil {
			return nil, err
		}
		if seen[r.Subject] {
			return nil, fmt.Errorf("%w: two rules about %v", ErrRule, r.Subject)
		}
		seen[r.Subject] = true
		r.Fixed = true
		fixed = append(fixed, r)
	}
	return fixed, nil
}

// takeRule takes in a change of the rules.
func (a *Admission) takeRule(change registry.Change) error {
	subject, err := ParseSubject(change.Key)
	if err != nil {
		return err
	}
	if change.Deleted {
		delete(a.rules, subject)
		a.setOpinion(fromBucket, subject, opinion{})
		return nil
	}
	r, err := decodeRule(change.Key, change.Value)
	if err != nil {
		return err // what was there before, if anything, still holds
	}
	a.rules[subject] = heldRule{r, change.Revision}
	a.setOpinion(fromBucket, subject, r.opinion())
	a.expect(r.Expires)
	return nil
}

func (a *Admission) setOpinion(source int, s Subject, o opinion) {
	a.lists.set(source, s, o)
	a.idRules.Store(int64(len(a.lists.ids)))
}

func (r Rule) opinion() opinion {
	o := opinion{verdict: allowed}
	if r.Effect == Deny {
		o.verdict = denied
	}
	if !r.Expires.IsZero() {
		o.expires = r.Expires.Unix()
	}
	return o
}
