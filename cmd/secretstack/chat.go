package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textarea"
	"charm.land/bubbles/v2/viewport"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/envelope"
)

const (
	// chatHistory is how many messages of before chat shows.
	chatHistory = 200
	// chatInput is how many lines one types in.
	chatInput = 3
)

func newChat(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "chat NAME",
		Short: "talk with a contact",
		Long: `chat shows what you and a contact have said, and whatever comes. Enter sends; Alt-Enter or Ctrl-J begins another line.
Page-Up and Page-Down leaf through the history. Ctrl-C leaves; what has been sent is delivered all the same.

A mark before each message of yours says how far it has come:

  …  queued here          ^  at the hub         ?  your contact has to accept you
  ✓  delivered            !  failed`,
		Args: argsBetween(1, 1, "the name of a contact"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !isTerminal(g.in) || !isTerminal(g.out) {
				return usagef("chat needs a terminal; use send and messages in scripts")
			}
			return g.withCourier(cmd.Context(), func(c *courier.Client) error { return chat(cmd.Context(), g, c, args[0]) })
		},
	}
}

// chat runs the conversation until its owner leaves.
func chat(ctx context.Context, g *globals, c *courier.Client, name string) error {
	all, err := c.Contacts(ctx)
	if err != nil {
		return err
	}
	model := newChatModel(name, nil)
	for _, known := range all {
		if strings.EqualFold(known.Name, name) {
			model.name, model.alert = known.Name, known.Alert
		}
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	model.send = func(text string) error {
		_, err := c.Send(following, model.name, text)
		return ownersText(err)
	}
	program := tea.NewProgram(model, tea.WithContext(ctx), tea.WithInput(g.in), tea.WithOutput(g.out), tea.WithoutSignalHandler())
	followed := make(chan error, 1)
	go func() { followed <- followChat(following, c, name, program) }()
	_, err = program.Run()
	stop()
	if ended := <-followed; ended != nil {
		return ended
	}
	if errors.Is(err, tea.ErrInterrupted) || ctx.Err() != nil {
		return nil // that is how one leaves
	}
	return err
}

// followChat tells the program what is said, and ends it when the courier does.
func followChat(ctx context.Context, c *courier.Client, name string, program *tea.Program) error {
	var failure error
	for m, err := range c.Messages(ctx, courier.Query{Contact: name, Last: chatHistory, Follow: true}) {
		if err != nil {
			failure = err
			break
		}
		program.Send(m)
	}
	if ctx.Err() != nil {
		return nil
	}
	program.Quit()
	if failure == nil {
		failure = errors.New("the courier has ended")
	}
	return failure
}

// chatModel is what chat shows.
type chatModel struct {
	name  string
	alert string
	send  func(text string) error

	messages []courier.Message
	index    map[int64]int // of messages, by ID
	history  viewport.Model
	input    textarea.Model
	trouble  string   // why the last line could not be sent
	unsent   []string // what was typed and is not sent yet, the oldest first: that one is under way
	leaving  bool     // the owner leaves when all of it is sent
	width    int
}

// sentMsg says how sending the oldest text went.
type sentMsg struct{ err error }

func newChatModel(name string, send func(text string) error) *chatModel {
	input := textarea.New()
	input.Prompt, input.ShowLineNumbers, input.CharLimit, input.MaxHeight = "> ", false, envelope.MaxText, 0
	input.SetVirtualCursor(false)
	input.SetHeight(chatInput)
	input.KeyMap.InsertNewline = key.NewBinding(key.WithKeys("alt+enter", "ctrl+j", "shift+enter"))
	input.SetStyles(plainStyles())
	return &chatModel{name: name, send: send, index: map[int64]int{}, history: viewport.New(), input: input}
}

// plainStyles are the input's styles without colours that could not be read on some background.
func plainStyles() textarea.Styles {
	var s textarea.Styles
	s.Cursor.Blink = true
	return s
}

func (m *chatModel) Init() tea.Cmd { return m.input.Focus() }

func (m *chatModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.resize(msg.Width, msg.Height)
		return m, nil
	case courier.Message:
		m.show(msg)
		return m, nil
	case sentMsg:
		return m, m.sent(msg.err)
	case tea.KeyPressMsg:
		switch msg.String() {
		case "ctrl+c", "ctrl+d":
			return m, m.leave()
		case "enter":
			return m, m.submit()
		case "pgup", "pgdown":
			var cmd tea.Cmd
			m.history, cmd = m.history.Update(msg)
			return m, cmd
		}
	}
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(msg)
	return m, cmd
}

// submit sends what was typed, when all that was typed before is sent: commands run side by side.
func (m *chatModel) submit() tea.Cmd {
	text := strings.TrimSpace(m.input.Value())
	if text == "" {
		return nil
	}
	m.input.Reset()
	m.unsent = append(m.unsent, text)
	if len(m.unsent) > 1 {
		return nil
	}
	return m.sendOldest()
}

func (m *chatModel) sendOldest() tea.Cmd {
	send, text := m.send, m.unsent[0]
	return func() tea.Msg { return sentMsg{send(text)} }
}

// sent goes on with the next text, or gives back what could not be sent, so that nothing that was typed is lost.
func (m *chatModel) sent(err error) tea.Cmd {
	m.trouble = ""
	if err != nil {
		m.trouble = plain(err)
		if typed := m.input.Value(); typed != "" {
			m.unsent = append(m.unsent, typed)
		}
		m.input.SetValue(strings.Join(m.unsent, "\n"))
		m.unsent, m.leaving = nil, false
		return nil
	}
	m.unsent = m.unsent[1:]
	switch {
	case len(m.unsent) > 0:
		return m.sendOldest()
	case m.leaving:
		return tea.Quit
	}
	return nil
}

// leave ends the conversation when all is sent, or at once if asked twice.
func (m *chatModel) leave() tea.Cmd {
	if len(m.unsent) == 0 || m.leaving {
		return tea.Quit
	}
	m.leaving = true
	return nil
}

// resize fits everything into the terminal.
func (m *chatModel) resize(width, height int) {
	m.width = width
	m.history.SetWidth(width)
	m.history.SetHeight(max(1, height-chatInput-2)) // and two lines
	m.input.SetWidth(width)
	m.render(true)
}

// show adds a message, or takes over how far one has come.
func (m *chatModel) show(msg courier.Message) {
	if i, known := m.index[msg.ID]; known {
		m.messages[i] = msg
	} else {
		m.index[msg.ID] = len(m.messages)
		m.messages = append(m.messages, msg)
	}
	m.render(m.history.AtBottom())
}

// render draws the history anew.
func (m *chatModel) render(toEnd bool) {
	var lines []string
	day := ""
	for _, msg := range m.messages {
		local := msg.Time.Local()
		if d := local.Format("Monday, 2 January 2006"); d != day {
			day = d
			lines = append(lines, lipgloss.NewStyle().Faint(true).Render("── "+d+" ──"))
		}
		lines = append(lines, m.message(msg, local)...)
	}
	m.history.SetContentLines(lines)
	if toEnd {
		m.history.GotoBottom()
	}
}

// message draws one message: later lines stand below the first one's text.
func (m *chatModel) message(msg courier.Message, local time.Time) []string {
	who, mark := m.name, " "
	if msg.Direction == "sent" {
		who, mark = "me", stateMark(msg.State)
	}
	text := printableLines(msg.Text)
	if msg.File != nil {
		text = fileText(msg)
	}
	if msg.Note != "" && msg.File == nil {
		text += " (" + printable(msg.Note) + ")"
	}
	head := fmt.Sprintf("%s %s ", mark, local.Format("15:04"))
	style := lipgloss.NewStyle().Bold(true)
	indent := lipgloss.Width(head)
	width := max(10, m.width-indent)
	wrapped := strings.Split(lipgloss.Wrap(who+": "+strings.ReplaceAll(text, "\t", "    "), width, ""), "\n")
	wrapped[0] = strings.Replace(wrapped[0], who+":", style.Render(who+":"), 1)
	for i := range wrapped {
		if i == 0 {
			wrapped[i] = head + wrapped[i]
		} else {
			wrapped[i] = strings.Repeat(" ", indent) + wrapped[i]
		}
	}
	return wrapped
}

func stateMark(state string) string {
	switch state {
	case "queued":
		return "…"
	case "at the hub":
		return "^"
	case "held":
		return "?"
	case "delivered":
		return "✓"
	}
	return "!"
}

func (m *chatModel) View() tea.View {
	v := tea.NewView(strings.Join([]string{m.history.View(), m.status(), m.input.View(), m.help()}, "\n"))
	v.AltScreen = true
	v.WindowTitle = "secretstack: " + m.name
	if c := m.input.Cursor(); c != nil {
		c.Y += m.history.Height() + 1
		v.Cursor = c
	}
	return v
}

// status is the line between history and input.
func (m *chatModel) status() string {
	text := "── " + m.name + " "
	switch {
	case m.trouble != "":
		text = "── not sent: " + printable(m.trouble) + " "
	case m.alert != "":
		text = "── LOOK: " + m.name + " " + printable(m.alert) + " "
	case !m.history.AtBottom():
		text += "── more below "
	}
	text += strings.Repeat("─", max(0, m.width-lipgloss.Width(text)))
	return cut(text, m.width)
}

func (m *chatModel) help() string {
	return lipgloss.NewStyle().Faint(true).Render(cut("Enter sends · Alt-Enter: another line · PgUp, PgDn: history · Ctrl-C leaves", m.width))
}

// cut shortens a line to a width in columns.
func cut(line string, width int) string {
	for lipgloss.Width(line) > width && line != "" {
		runes := []rune(line)
		line = string(runes[:len(runes)-1])
	}
	return line
}
