package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

// How much of an answer's body is read.
const mostBody = 1 << 20

// headers is a flag NAME:VALUE that may be given several times.
type headers map[string][]string

func (h headers) String() string { return fmt.Sprint(map[string][]string(h)) }

func (h headers) Set(value string) error {
	name, value, found := strings.Cut(value, ":")
	if !found {
		return errors.New("a header is NAME:VALUE")
	}
	// As it was written: a server finds it by its name in any case.
	h[name] = append(h[name], strings.TrimSpace(value))
	return nil
}

// request is what the caller wants to know.
type request struct {
	target  *url.URL
	method  string
	headers headers
}

// call makes requests and prints what came back: a block of lines each, `[NUMBER] …` or `[NUMBER body] …`, and an empty line.
func call(args []string) error {
	asked, count, timeout, err := parseCall(args)
	if err != nil {
		return err
	}
	one, done, err := asked.caller()
	if err != nil {
		return err
	}
	defer done()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for number := range count {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		lines, err := one(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("request %d: %w", number, err)
		}
		fmt.Fprintf(out, "[%d] Url=%s\n", number, asked.target)
		for _, line := range lines {
			fmt.Fprintf(out, "[%d%s\n", number, line)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// parseCall takes flags before and after the URL.
func parseCall(args []string) (asked request, count int, timeout time.Duration, err error) {
	asked.headers = headers{}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.Var(asked.headers, "H", "a header, NAME:VALUE")
	flags.StringVar(&asked.method, "method", http.MethodGet, "the method")
	flags.IntVar(&count, "count", 1, "how many requests")
	flags.DurationVar(&timeout, "timeout", 15*time.Second, "how long one may take")
	if err = flags.Parse(args); err != nil {
		return
	}
	text := flags.Arg(0)
	if flags.NArg() > 0 {
		if err = flags.Parse(flags.Args()[1:]); err != nil {
			return
		}
	}
	if flags.NArg() > 0 || text == "" {
		err = errors.New("client URL [--method=M] [-H NAME:VALUE]… [--count=N]")
		return
	}
	asked.target, err = url.Parse(text)
	return
}

// caller is what makes one request of the target's scheme, and what to call when all are made.
func (r *request) caller() (one func(context.Context) ([]string, error), done func(), err error) {
	switch r.target.Scheme {
	case "http", "https":
		return r.overHTTP, func() {}, nil
	case "grpc":
		connection, err := grpc.NewClient("dns:///"+r.target.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		client := pb.NewGrpcEchoClient(connection)
		return func(ctx context.Context) ([]string, error) { return r.overGRPC(ctx, client) }, func() { connection.Close() }, nil
	case "tcp":
		return r.overTCP, func() {}, nil
	}
	return nil, nil, fmt.Errorf("%q: a URL is of http, https, grpc or tcp", r.target)
}

// Requests share a connection, so that each has to be routed for itself; and a redirect is an answer like any other.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (r *request) overHTTP(ctx context.Context) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, r.method, r.target.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range r.headers {
		if strings.EqualFold(name, "Host") {
			request.Host = values[0]
			continue
		}
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBody))
	if err != nil {
		return nil, err
	}
	lines := append([]string{fmt.Sprintf("] StatusCode=%d", response.StatusCode)}, headerLines("] ResponseHeader", response.Header)...)
	return append(lines, bodyLines(string(body))...), nil
}

// A call that succeeded is told as HTTP's 200.
func (r *request) overGRPC(ctx context.Context, client pb.GrpcEchoClient) ([]string, error) {
	for name, values := range r.headers {
		for _, value := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
	}
	response, err := client.Echo(ctx, &pb.EchoRequest{})
	if err != nil {
		return nil, err
	}
	assertions := response.GetAssertions()
	lines := []string{"] StatusCode=200", " body] Host=" + assertions.GetAuthority()}
	for _, header := range assertions.GetHeaders() {
		lines = append(lines, fmt.Sprintf(" body] RequestHeader=%s:%s", header.GetKey(), header.GetValue()))
	}
	return append(lines, " body] Hostname="+assertions.GetContext().GetPod()), nil
}

func (r *request) overTCP(ctx context.Context) ([]string, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", r.target.Host)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if _, err := io.WriteString(connection, "hello\n"); err != nil {
		return nil, err
	}
	if half, ok := connection.(*net.TCPConn); ok {
		if err := half.CloseWrite(); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(io.LimitReader(connection, mostBody))
	return bodyLines(string(body)), err
}

// bodyLines are the lines of what the server said; an empty one would end the block.
func bodyLines(body string) []string {
	var lines []string
	for line := range strings.Lines(body) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			lines = append(lines, " body] "+line)
		}
	}
	return lines
}
