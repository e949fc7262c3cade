package sshconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Script is text for the host's /bin/sh. It is a constant of the program:
// what differs goes into Args, what is secret into Stdin.
type Script string

// Command is what to run on a host: Argv, or a Script with Args.
type Command struct {
	Argv      []string
	Script    Script
	Args      []string  // "$1", "$2" and so on of the Script
	Stdin     io.Reader // nil is empty; sent only after the command was begun
	Watch     io.Writer // gets standard output as it comes; must not block
	MaxOutput int64     // of standard output, and of standard error; 1 MiB
	Sudo      bool

	last bool // it ends another command, and is itself just left when it takes too long
}

// Result is what a command said. Exit is its exit status.
type Result struct {
	Stdout, Stderr []byte
	Exit           int
}

// What goes over the wire. The login shell, whichever it is, sees one constant
// line that starts /bin/sh; that says on both outputs that it is there, and in
// which process group, and reads the program from its standard input. The
// program is one brace group: cut short, it is a syntax error that runs nothing.
// So neither a login shell's quoting nor its greetings matter, the program is in
// no argument list, and nothing is sent before there is somebody to read it.
const (
	boot = `LC_ALL=C; export LC_ALL; read -r _ _ _ _ group _ </proc/$$/stat; printf "\n%s\n" "$1"; printf "\n%s %s\n" "$1" "$group" >&2; eval "$(head -c "$2")"`

	outputMost = 1 << 20
	noiseMost  = 64 << 10 // greetings of login shells, lectures of sudo
)

func (c Command) program() (string, error) {
	var b strings.Builder
	b.WriteString("{\n")
	switch {
	case len(c.Argv) > 0 && c.Script == "" && len(c.Args) == 0:
		b.WriteString("exec " + quoteAll(c.Argv))
	case len(c.Argv) == 0 && strings.TrimSpace(string(c.Script)) != "":
		b.WriteString("set -- " + quoteAll(c.Args) + "\n" + string(c.Script))
	default:
		return "", errors.New("a command is an Argv, or a Script with Args")
	}
	b.WriteString("\n}\n")
	if strings.IndexByte(b.String(), 0) >= 0 {
		return "", errors.New("a command holds no NUL")
	}
	return b.String(), nil
}

// quoteAll writes words so that a POSIX shell reads them back.
func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// Run runs a command to its end. An exit status is no error, whatever it is;
// everything else is, with what was said until then. When the context ends, or
// the output is too much, or Stdin cannot be read to its end, the command is
// ended on the host, by SIGTERM and then SIGKILL to its process group; the error
// says if it may be running still.
//
// A command begins when all of it has arrived, so an error that is not Begun
// means that nothing was run. A Stdin that is cut off by a lost connection is
// simply at its end for the command: what must be whole needs a digest.
func (c *Conn) Run(ctx context.Context, cmd Command) (Result, error) {
	program, err := cmd.program()
	if err != nil {
		return Result{}, fault(BadConfig, c.label, "the command cannot be run", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session, err := c.open(ctx)
	if err != nil {
		return Result{}, err
	}
	defer c.count(-1)
	defer session.Close()
	r := c.newRun(cmd, program, session, cancel)
	if err := r.start(ctx); err != nil {
		return Result{}, c.lost(false, err)
	}
	select {
	case err = <-r.done:
		err = r.judge(ctx, err)
	case <-ctx.Done():
		ended := r.stop(context.WithoutCancel(ctx))
		err = r.stopped(context.Cause(ctx), ended)
	}
	return Result{Stdout: r.out.text(), Stderr: r.err.text(), Exit: r.exit}, err
}

// run is one command that runs.
type run struct {
	conn     *Conn
	cmd      Command
	program  string
	token    string
	session  *ssh.Session
	cancel   context.CancelCauseFunc
	stdin    io.WriteCloser
	out, err stream
	exit     int
	done     chan error
	wake     chan struct{} // the host said something before the command began

	asked int // how often sudo was given a password

	mu      sync.Mutex
	begun   bool // the program was sent
	settled bool // it will not be sent any more
}

// The causes for which a command is ended by this package.
var (
	errTooMuch  = errors.New("too much output")
	errNoSudo   = errors.New("sudo did not start the command in time")
	errWrong    = errors.New("sudo asked again")
	errNobody   = errors.New("nobody gave a password")
	errNoReader = errors.New("reading")
)

func (c *Conn) newRun(cmd Command, program string, session *ssh.Session, cancel context.CancelCauseFunc) *run {
	orDefault(&cmd.MaxOutput, outputMost)
	r := &run{conn: c, cmd: cmd, program: program, token: "kthwc-" + rand.Text(), session: session, cancel: cancel,
		done: make(chan error, 1), wake: make(chan struct{}, 1)}
	for _, s := range []*stream{&r.out, &r.err} {
		*s = stream{mark: []byte("\n" + r.token), most: cmd.MaxOutput, full: func() { cancel(errTooMuch) }, news: r.wake}
	}
	r.out.watch = cmd.Watch
	return r
}

// line is what the login shell gets.
func (r *run) line() string {
	sudo := ""
	switch { // sudo's own words must be those that we know
	case r.cmd.Sudo && r.conn.options.SudoPassword != nil:
		sudo = "env LC_ALL=C sudo -S -p " + r.question() + " -- "
	case r.cmd.Sudo:
		sudo = "env LC_ALL=C sudo -n -- "
	}
	return fmt.Sprintf("exec %s/bin/sh -c '%s' kthwc %s %d", sudo, boot, r.token, len(r.program))
}

// question is what sudo prints where it asks for the password.
func (r *run) question() string { return "ask-" + r.token + ":" }

// start asks for the command and returns; done has its end.
func (r *run) start(ctx context.Context) error {
	r.session.Stdout, r.session.Stderr = &r.out, &r.err
	stdin, err := r.session.StdinPipe()
	if err != nil {
		return err
	}
	r.stdin = stdin
	ended := make(chan struct{})
	go func() {
		err := r.session.Start(r.line())
		if err == nil {
			err = r.session.Wait()
		}
		close(ended)
		r.done <- err
	}()
	go r.feed(ctx, ended)
	return nil
}

// feed answers sudo, then sends the program and the input, each when there is
// somebody to read it.
func (r *run) feed(ctx context.Context, ended <-chan struct{}) {
	defer r.stdin.Close()
	late := time.NewTimer(r.patience())
	defer late.Stop()
	for !r.err.begun() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-late.C:
			r.cancel(errNoSudo)
			return
		case <-r.wake:
		}
		if err := r.answer(ctx); err != nil {
			r.cancel(err)
			return
		}
		late.Reset(r.patience())
	}
	if !r.begin() {
		return
	}
	if _, err := io.WriteString(r.stdin, r.program); err != nil || r.cmd.Stdin == nil {
		return
	}
	from := &watched{Reader: r.cmd.Stdin}
	if _, err := io.Copy(r.stdin, from); err != nil && from.err != nil {
		r.cancel(fmt.Errorf("%w: %w", errNoReader, from.err))
		<-ended // until then the input stays open: its end would look like success
	}
}

// watched tells a reader's errors from those of the writer that it is copied to.
type watched struct {
	io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// patience is how long the host may say nothing new before the command begins.
func (r *run) patience() time.Duration {
	if r.cmd.Sudo {
		return r.conn.options.SudoTimeout
	}
	return 24 * time.Hour // the caller's context is the bound
}

// begin is false if the command has been given up: then it must not begin any
// more, because the caller was told, or will be, that it had not.
func (r *run) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = !r.settled
	return r.begun
}

// settle ends the time in which the command can begin, and says whether it has.
func (r *run) settle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = true
	return r.begun
}

// answer gives sudo its password when, and only when, sudo asks in our words. It
// gives it once: the next question would eat the command's input.
func (r *run) answer(ctx context.Context) error {
	questions := r.err.count(r.question())
	switch {
	case !r.cmd.Sudo || questions == r.asked:
		return nil
	case questions > 1:
		r.conn.forget()
		return errWrong
	}
	r.asked = questions
	password, err := r.conn.sudoPassword(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNobody, err)
	}
	defer clear(password)
	_, err = r.stdin.Write(append(password, '\n'))
	return err
}

// sudoPassword asks once for a connection, whoever needs it.
func (c *Conn) sudoPassword(ctx context.Context) ([]byte, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if c.password == nil {
		p, err := c.options.SudoPassword(ctx, c.label)
		if err != nil {
			return nil, err
		}
		if bytes.ContainsAny(p, "\n\x00") || len(p) == 0 {
			return nil, errors.New("a password has no line break and is not empty")
		}
		c.password = p
	}
	return append(make([]byte, 0, len(c.password)+1), c.password...), nil
}

func (c *Conn) forget() {
	c.asking.Lock()
	defer c.asking.Unlock()
	clear(c.password)
	c.password = nil
}

// judge says what the end of a session means.
func (r *run) judge(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil { // both at once
		return r.stopped(cause, true)
	}
	begun, label := r.settle(), r.conn.label
	var exit *ssh.ExitError
	isExit := errors.As(err, &exit)
	if isExit {
		r.exit = exit.ExitStatus()
	}
	switch {
	case err != nil && !isExit:
		return r.conn.lost(begun, err)
	case !begun && r.cmd.Sudo:
		return r.sudoFault()
	case !begun:
		return fault(NotAShell, label, "no shell answers; "+said(append(r.out.words(), r.err.words()...)), nil)
	case isExit && exit.Signal() != "":
		e := fault(Killed, label, "SIG"+printable(exit.Signal())+" ended the command", nil)
		e.Begun = true
		return e
	}
	return nil
}

// sudoFault is why sudo started nothing.
func (r *run) sudoFault() error {
	words := r.err.words()
	if bytes.Contains(words, []byte("password is required")) {
		return fault(SudoNeedsPassword, r.conn.label, "sudo asks for a password, and there is nobody to ask", nil)
	}
	words = bytes.ReplaceAll(words, []byte(r.question()), nil)
	return fault(SudoRefused, r.conn.label, "sudo did not run the command; "+said(words), nil)
}

// stopped is the error for a command that this side ended.
func (r *run) stopped(cause error, ended bool) error {
	e := fault(Cancelled, r.conn.label, "the command was cancelled", cause)
	label := r.conn.label
	switch {
	case errors.Is(cause, errTooMuch):
		e = fault(TooMuchOutput, label, fmt.Sprintf("the command said more than %d bytes, and was ended", r.cmd.MaxOutput), nil)
	case errors.Is(cause, errNoReader):
		e = fault(StdinFailed, label, "the command's input could not be read to its end, and it was ended", cause)
	case errors.Is(cause, errNobody):
		e = fault(SudoNeedsPassword, label, "sudo asks for a password", cause)
	case errors.Is(cause, errWrong):
		e = fault(SudoRefused, label, "sudo does not accept the password", nil)
		e.Help = "give the password of the user on the host"
	case errors.Is(cause, errNoSudo):
		e = fault(SudoRefused, label, "sudo did not start the command in "+r.conn.options.SudoTimeout.String()+"; "+said(r.err.words()), nil)
	case errors.Is(cause, context.DeadlineExceeded):
		e = fault(TimedOut, label, "the command took too long, and was ended", cause)
		e.Help = ""
	}
	e.Begun = r.settle()
	e.Runs = e.Begun && !ended
	return e
}

// killGroup ends a process group: $1 is the signal, $2 the group.
const killGroup Script = `kill -s "$1" -- "-$2"`

// stop ends the command on the host and is true when it has ended there. A
// command that was not begun never will be: its program was not sent.
func (r *run) stop(ctx context.Context) bool {
	defer r.session.Close()
	group := r.err.group()
	if !r.settle() {
		return true
	}
	if r.cmd.last || group == "" {
		return false
	}
	for _, signal := range []string{"TERM", "KILL"} {
		if r.signal(ctx, signal, group) {
			return true
		}
	}
	return false
}

// signal sends one signal over a session of its own, because sshd delivers
// signals neither to root's commands nor to what sudo started.
func (r *run) signal(ctx context.Context, signal, group string) bool {
	ctx, cancel := context.WithTimeout(ctx, r.conn.options.EndTimeout)
	defer cancel()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = r.conn.Run(ctx, Command{Script: killGroup, Args: []string{signal, group}, Sudo: r.cmd.Sudo, last: true})
	}()
	defer func() { <-sent }()
	select {
	case err := <-r.done:
		var exit *ssh.ExitError
		cancel()
		return err == nil || errors.As(err, &exit) // else the connection ended, not the command
	case <-ctx.Done():
		return false
	}
}

// stream is one output of a command: noise up to the mark that the command's
// shell prints, content after it.
type stream struct {
	mark []byte
	most int64
	full func()
	news chan<- struct{}

	watch io.Writer // may be nil

	mu      sync.Mutex
	noise   []byte
	marked  bool
	process string // the rest of the mark's line
	content []byte
}

// Write never fails: a stream that is full has the command ended, and drops the rest.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	if !s.marked {
		p = s.before(p)
	}
	if room := s.most - int64(len(s.content)); int64(len(p)) > room {
		p = p[:room]
		s.full()
	}
	s.content = append(s.content, p...)
	if s.watch != nil && len(p) > 0 {
		_, _ = s.watch.Write(p) // whoever watches has errors of its own
	}
	return n, nil
}

// before looks for the mark and gives what follows it.
func (s *stream) before(p []byte) []byte {
	s.noise = append(s.noise, p...)
	defer func() {
		select {
		case s.news <- struct{}{}:
		default:
		}
	}()
	at := bytes.Index(s.noise, s.mark)
	if at < 0 && len(s.noise) > noiseMost {
		s.noise = s.noise[:noiseMost]
		s.full()
	}
	if at < 0 {
		return nil
	}
	rest := s.noise[at+len(s.mark):]
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		return nil
	}
	s.marked, s.process = true, strings.TrimSpace(string(rest[:end]))
	s.noise = s.noise[:at:at]
	return rest[end+1:]
}

func (s *stream) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marked
}

func (s *stream) count(question string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.noise, []byte(question))
}

func (s *stream) words() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.noise...)
}

// group is the command's process group, "" unless the host gave a number that can be one.
func (s *stream) group() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, err := strconv.ParseUint(s.process, 10, 31); err != nil || n < 2 {
		return ""
	}
	return s.process
}

// text copies what was said: the session may still be writing.
func (s *stream) text() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.content)
}
