package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	tea "charm.land/bubbletea/v2"
)

// typist types into a chat, and runs its commands when it is told to.
type typist struct {
	model *chatModel
	due   []tea.Cmd
}

func (y *typist) update(msg tea.Msg) {
	if _, cmd := y.model.Update(msg); cmd != nil {
		y.due = append(y.due, cmd)
	}
}

func (y *typist) enter(text string) {
	y.model.input.SetValue(text)
	y.update(tea.KeyPressMsg{Code: tea.KeyEnter})
}

// settle runs what is due, the latest first, and reports whether the chat ended.
func (y *typist) settle() (ended bool) {
	for len(y.due) > 0 {
		last := len(y.due) - 1
		cmd := y.due[last]
		y.due = y.due[:last]
		switch msg := cmd().(type) {
		case sentMsg:
			y.update(msg)
		case tea.QuitMsg:
			ended = true
		}
	}
	return ended
}

func TestLinesOfAChatAreSentInTheOrderTyped(t *testing.T) {
	var got, want []string
	y := &typist{model: newChatModel("bob", func(text string) error {
		got = append(got, text)
		return nil
	})}
	for i := range 20 {
		want = append(want, fmt.Sprint("line ", i))
		y.enter(want[i])
	}
	y.update(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
	if ended := y.settle(); !ended || !slices.Equal(got, want) {
		t.Errorf("sent %q, ended: %v", got, ended)
	}
}

func TestLinesOfAChatThatCannotBeSentAreGivenBack(t *testing.T) {
	y := &typist{model: newChatModel("bob", func(string) error { return errors.New("no") })}
	y.enter("one")
	y.enter("two")
	y.model.input.SetValue("thr")
	y.update(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
	if y.settle() || y.model.input.Value() != "one\ntwo\nthr" || y.model.trouble != "no" {
		t.Errorf("the input is %q, the trouble %q", y.model.input.Value(), y.model.trouble)
	}
}
