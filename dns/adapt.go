// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/plugin"
	transports "github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// A Corefile is written for a pod of its own: it listens to everything, and its files lie in mountPath. adapt makes of
// it what means the same in a process of the node.

// mountPath is where CoreDNS's pods have the ConfigMap with their Corefile, and those of coredns-custom below it.
const mountPath = "/etc/coredns/"

// resolvConfPath stands for the node's name servers, as CoreDNS's pods have them.
const resolvConfPath = "/etc/resolv.conf"

// customDir is where the keys of the ConfigMap coredns-custom are, below mountPath.
const customDir = "custom"

// mainFile is the key of the Corefile.
const mainFile = "Corefile"

// files are a Corefile and what it may name, by their path below mountPath.
type files map[string]string

// place is what a Corefile cannot know.
type place struct {
	dir       string // where its files are
	listen    []netip.AddrPort
	upstreams []string                   // instead of those in /etc/resolv.conf
	resolv    string                     // instead of /etc/resolv.conf itself
	isSelf    func(addr netip.Addr) bool // whether a query to there would come back here
}

// adapted is a Corefile as CoreDNS runs it here.
type adapted struct {
	text    string
	origin  []string // file and line that each line of text was made from
	ignored []string // directives that mean nothing here, sorted
}

// withoutMeaning are directives that ask for ports, or for what a process of its own needs. This process has its health,
// its metrics and its reload elsewhere.
var withoutMeaning = []string{"health", "pprof", "prometheus", "ready"}

// write puts the files below dir, with their imports leading there.
func (f files) write(dir string) error {
	for name, text := range f {
		local, err := localImports(name, text, dir)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(local), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// localImports turns the lines of text that import files.
func localImports(name, text, dir string) (string, error) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "import" {
			continue
		}
		local, err := localPath(words[1], dir)
		if err != nil {
			return "", fmt.Errorf("%s:%d - import: %w", name, i+1, err)
		}
		if filepath.IsAbs(words[1]) { // another may be the name of a snippet
			lines[i] = strings.Replace(line, words[1], local, 1)
		}
	}
	return strings.Join(lines, "\n"), nil
}

// localPath returns where a file lies that a Corefile names. There are no others than those of the ConfigMaps: what else
// the machine has is nothing for who may write these.
func localPath(name, dir string) (string, error) {
	below := strings.TrimPrefix(path.Clean(name), mountPath)
	if !filepath.IsLocal(below) {
		return "", fmt.Errorf("%s is not below %s, where the keys of the ConfigMap %s are, and in %s/ those of %s", name, mountPath, configMap, customDir, customConfigMap)
	}
	return filepath.Join(dir, below), nil
}

// adapt reads the Corefile in p.dir.
func adapt(corefile string, p place) (adapted, error) {
	blocks, err := caddyfile.Parse(filepath.Join(p.dir, mainFile), strings.NewReader(corefile), slices.Concat(directives, withoutMeaning, elsewhere))
	if err != nil {
		return adapted{}, p.readable(err)
	}
	if len(blocks) == 0 {
		return adapted{}, fmt.Errorf("%s has no server block", mainFile)
	}
	byPort := map[uint16][]string{}
	for _, l := range p.listen {
		byPort[l.Port()] = append(byPort[l.Port()], l.Addr().String())
	}
	r := renderer{place: p}
	for port, addresses := range byPort {
		for _, block := range blocks {
			if err := r.block(block, port, addresses); err != nil {
				return adapted{}, p.readable(err)
			}
		}
	}
	slices.Sort(r.ignored)
	return adapted{text: r.text.String(), origin: r.origin, ignored: slices.Compact(r.ignored)}, nil
}

// readable names files as the Corefile does.
func (p place) readable(err error) error {
	return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), p.dir+"/", ""))
}

var renderedLine = regexp.MustCompile(mainFile + `:(\d+)`)

// explain makes an error about the adapted Corefile one about what it was made from.
func (a adapted) explain(err error, p place) error {
	text := renderedLine.ReplaceAllStringFunc(err.Error(), func(at string) string {
		n, _ := strconv.Atoi(at[len(mainFile)+1:])
		if n < 1 || n > len(a.origin) || a.origin[n-1] == "" {
			return at
		}
		return a.origin[n-1]
	})
	return p.readable(fmt.Errorf("%s", text))
}

// renderer writes server blocks.
type renderer struct {
	place
	text    strings.Builder
	origin  []string
	ignored []string
}

func (r *renderer) line(origin, text string) {
	r.text.WriteString(text + "\n")
	r.origin = append(r.origin, origin)
	for range strings.Count(text, "\n") {
		r.origin = append(r.origin, origin)
	}
}

func (r *renderer) block(block caddyfile.ServerBlock, port uint16, addresses []string) error {
	var keys []string
	for _, key := range block.Keys {
		zone, err := zoneOf(key)
		if err != nil {
			return err
		}
		keys = append(keys, quote(zone)+":"+strconv.Itoa(int(port)))
	}
	r.line("", strings.Join(keys, " ")+" {")
	r.line("", "bind "+strings.Join(addresses, " "))
	for directive, tokens := range block.Tokens {
		if slices.Contains(withoutMeaning, directive) {
			r.ignored = append(r.ignored, directive)
			continue
		}
		for _, one := range instances(tokens) {
			one, err := r.adapt(directive, one)
			if err != nil {
				return err
			}
			r.tokens(one)
		}
	}
	r.line("", "}")
	return nil
}

// zoneOf takes the zone out of the key of a server block.
func zoneOf(key string) (string, error) {
	kind, rest := transports.Transport(key)
	if kind != transport.DNS {
		return "", fmt.Errorf("server block %s: DNS is served over UDP and TCP only, not %s", key, kind)
	}
	_, port, err := plugin.SplitHostPort(rest)
	if err != nil {
		return "", fmt.Errorf("server block %s: %w", key, err)
	}
	if port != "" && port != strconv.Itoa(dnsPort) {
		return "", fmt.Errorf("server block %s: DNS is served at port %d only", key, dnsPort)
	}
	if zone := strings.TrimSuffix(rest, ":"+port); zone != "" {
		return zone, nil
	}
	return ".", nil
}

// adapt returns a directive as it has to be here; nothing if it goes.
func (r *renderer) adapt(directive string, tokens []caddyfile.Token) ([]caddyfile.Token, error) {
	var err error
	if !slices.Contains(directives, directive) {
		return nil, at(tokens[0], fmt.Errorf("%s: this plugin of CoreDNS is not part of Skiff (docs/network.md names those that are)", directive))
	}
	switch directive {
	case "autopath":
		tokens, err = r.autopath(tokens)
	case "bind":
		return nil, at(tokens[0], fmt.Errorf("bind: DNS listens where the pods of the node reach it, and nowhere else"))
	case "forward":
		tokens, err = r.forward(tokens)
	case "hosts":
		tokens, err = r.hosts(tokens)
	case "file":
		tokens, err = r.file(tokens, 1)
	}
	if err != nil {
		return nil, at(tokens[0], fmt.Errorf("%s: %w", directive, err))
	}
	return tokens, nil
}

func at(t caddyfile.Token, err error) error { return fmt.Errorf("%s - %w", where(t), err) }

// where says which line a token is in.
func where(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", cmp.Or(t.File, mainFile), t.Line) }

// args counts the arguments of a directive.
func args(tokens []caddyfile.Token) int {
	n := 1
	for n < len(tokens) && !newLine(tokens[n-1], tokens[n]) && tokens[n].Text != "{" {
		n++
	}
	return n - 1
}

// file makes the path that is argument n of a directive one of p.dir.
func (r *renderer) file(tokens []caddyfile.Token, n int) ([]caddyfile.Token, error) {
	if args(tokens) < n {
		return tokens, nil // CoreDNS says what is missing
	}
	local, err := localPath(tokens[n].Text, r.dir)
	tokens = slices.Clone(tokens)
	if err == nil {
		tokens[n].Text = local
	}
	return tokens, err
}

// autopath searches as a plugin says, or as a file does that is the node's or ours.
func (r *renderer) autopath(tokens []caddyfile.Token) ([]caddyfile.Token, error) {
	n := args(tokens)
	switch {
	case n == 0 || strings.HasPrefix(tokens[n].Text, "@"):
		return tokens, nil
	case tokens[n].Text == resolvConfPath:
		tokens = slices.Clone(tokens)
		tokens[n].Text = r.resolv
		return tokens, nil
	}
	return r.file(tokens, n)
}

// hosts leaves the machine's /etc/hosts alone: in a pod there would be nothing in it.
func (r *renderer) hosts(tokens []caddyfile.Token) ([]caddyfile.Token, error) {
	const none, usual = "/dev/null", "/etc/hosts"
	nothing := tokens[0]
	nothing.Text = none
	switch {
	case args(tokens) == 0:
		return slices.Insert(slices.Clone(tokens), 1, nothing), nil
	case tokens[1].Text == usual:
		return slices.Replace(slices.Clone(tokens), 1, 2, nothing), nil
	}
	return r.file(tokens, 1)
}

// forward asks the node's upstreams where a pod would ask those of its resolv.conf.
func (r *renderer) forward(tokens []caddyfile.Token) ([]caddyfile.Token, error) {
	n := args(tokens)
	if n < 2 {
		return tokens, nil // CoreDNS says what is missing
	}
	from, rest := tokens[:2], tokens[1+n:]
	var to []caddyfile.Token
	for _, t := range tokens[2 : 1+n] {
		if t.Text == resolvConfPath {
			for _, u := range r.upstreams {
				to = append(to, caddyfile.Token{File: t.File, Line: t.Line, Text: u})
			}
			continue
		}
		if strings.HasPrefix(t.Text, "/") {
			return tokens, fmt.Errorf("%s is neither a server nor %s", t.Text, resolvConfPath)
		}
		if r.asksSelf(t.Text) {
			return tokens, fmt.Errorf("%s is this DNS itself", t.Text)
		}
		to = append(to, t)
	}
	for i, t := range rest {
		if t.Text == "tls" && len(rest) > i+1 && rest[i+1].Line == t.Line {
			return tokens, fmt.Errorf("certificates of one's own are not supported, only `tls` alone and `tls_servername`")
		}
	}
	if len(to) > 0 {
		return slices.Concat(from, to, rest), nil
	}
	if tokens[1].Text != "." {
		return nil, nil
	}
	return []caddyfile.Token{{File: tokens[0].File, Line: tokens[0].Line, Text: noUpstream}}, nil
}

// asksSelf tells whether a target of forward leads back here.
func (r *renderer) asksSelf(target string) bool {
	_, target = transports.Transport(target)
	addr, err := netip.ParseAddr(target)
	if err != nil {
		full, err := netip.ParseAddrPort(target)
		if err != nil || full.Port() != dnsPort {
			return false
		}
		addr = full.Addr()
	}
	return r.isSelf(addr)
}

// tokens writes a directive, with its lines as they were.
func (r *renderer) tokens(tokens []caddyfile.Token) {
	var words []string
	for i, t := range tokens {
		words = append(words, quote(t.Text))
		if i+1 == len(tokens) || newLine(t, tokens[i+1]) {
			r.line(where(t), strings.Join(words, " "))
			words = nil
		}
	}
}

// instances splits the tokens of a directive that a block has several times.
func instances(tokens []caddyfile.Token) (all [][]caddyfile.Token) {
	depth, start := 0, 0
	for i, t := range tokens {
		if i > start && depth == 0 && newLine(tokens[i-1], t) {
			all = append(all, tokens[start:i])
			start = i
		}
		switch t.Text {
		case "{":
			depth++
		case "}":
			depth--
		}
	}
	return append(all, tokens[start:])
}

func newLine(before, t caddyfile.Token) bool {
	return before.File != t.File || before.Line+strings.Count(before.Text, "\n") < t.Line
}

// quote writes a token so that it is read as one.
func quote(text string) string {
	if text != "" && !strings.ContainsAny(text, " \t\r\n\"#") {
		return text
	}
	return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
}
