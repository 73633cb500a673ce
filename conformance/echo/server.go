package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

// A connection that says nothing is not kept longer.
const patience = time.Minute

// ports is a flag that may be given several times.
type ports []int

func (p *ports) String() string { return fmt.Sprint(*p) }

func (p *ports) Set(value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	*p = append(*p, int(port))
	return err
}

// or is what was given, or the port that the suite's Services lead to.
func (p ports) or(usual int) ports {
	if len(p) == 0 {
		return ports{usual}
	}
	return p
}

// serve answers on all ports until it is asked to end.
func serve(args []string) error {
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	var httpPorts, tlsPorts, tcpPorts, grpcPorts ports
	flags.Var(&httpPorts, "port", "a port for HTTP/1.1 and HTTP/2 (8080)")
	flags.Var(&tlsPorts, "tls", "which of these speak TLS")
	flags.Var(&tcpPorts, "tcp", "a port that sends lines back (9090)")
	flags.Var(&grpcPorts, "grpc", "a port for gRPC (7070)")
	certificate := flags.String("crt", "", "the certificate for TLS")
	key := flags.String("key", "", "its key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ended := make(chan error)
	on := func(port int, serve func(net.Listener) error) error {
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { ended <- fmt.Errorf("port %d: %w", port, serve(listener)) }()
		return nil
	}
	for _, port := range httpPorts.or(8080) {
		server := httpServer(port)
		serve := server.Serve
		if slices.Contains(tlsPorts, port) {
			serve = func(listener net.Listener) error { return server.ServeTLS(listener, *certificate, *key) }
		}
		if err := on(port, serve); err != nil {
			return err
		}
	}
	for _, port := range grpcPorts.or(7070) {
		server := grpc.NewServer()
		pb.RegisterGrpcEchoServer(server, &grpcEcho{port: port})
		if err := on(port, server.Serve); err != nil {
			return err
		}
	}
	for _, port := range tcpPorts.or(9090) {
		if err := on(port, serveLines); err != nil {
			return err
		}
	}
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case err := <-ended:
		return err
	case <-asked.Done():
		return nil
	}
}

func httpServer(port int) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(w, r, port) }),
		Protocols:         protocols,
		ReadHeaderTimeout: patience,
	}
}

// echo tells the caller what arrived, and where.
func echo(w http.ResponseWriter, r *http.Request, port int) {
	w.Header().Set("Content-Type", "text/plain")
	lines := []string{
		"ServicePort=" + strconv.Itoa(port),
		"Host=" + r.Host,
		"URL=" + r.URL.RequestURI(),
		"Method=" + r.Method,
		"Proto=" + r.Proto,
		"IP=" + hostOf(r.RemoteAddr),
	}
	if r.TLS != nil {
		lines = append(lines, "Alpn="+r.TLS.NegotiatedProtocol, "Version="+tls.VersionName(r.TLS.Version))
	}
	lines = append(lines, headerLines("RequestHeader", r.Header)...)
	lines = append(lines, "Hostname="+hostname())
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

type grpcEcho struct {
	pb.UnimplementedGrpcEchoServer
	port int
}

func (s *grpcEcho) Echo(ctx context.Context, request *pb.EchoRequest) (*pb.EchoResponse, error) {
	assertions := &pb.Assertions{
		FullyQualifiedMethod: pb.GrpcEcho_Echo_FullMethodName,
		Context:              &pb.Context{Pod: hostname()},
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, value := range headers[name] {
			assertions.Headers = append(assertions.Headers, &pb.Header{Key: name, Value: value})
		}
	}
	if authority := headers.Get(":authority"); len(authority) > 0 {
		assertions.Authority = authority[0]
	}
	if from, ok := peer.FromContext(ctx); ok {
		fmt.Printf("gRPC on %d from %s\n", s.port, from.Addr)
	}
	return &pb.EchoResponse{Assertions: assertions, Request: request}, nil
}

// serveLines says who answers, and then sends each line back.
func serveLines(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			if err := sendBack(connection); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "echo:", err)
			}
		}()
	}
}

func sendBack(connection net.Conn) error {
	reader := bufio.NewReader(io.LimitReader(connection, 1<<20))
	for first := true; ; first = false {
		if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		line, err := reader.ReadString('\n')
		if first && len(line) > 0 {
			line = fmt.Sprintf("StatusCode=200\nHostname=%s\nIP=%s\n%s", hostname(), hostOf(connection.RemoteAddr().String()), line)
		}
		if _, failed := io.WriteString(connection, line); failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
	}
}

// headerLines are NAME=HEADER:VALUE, one a value.
func headerLines(name string, headers http.Header) []string {
	var lines []string
	for _, header := range slices.Sorted(maps.Keys(headers)) {
		for _, value := range headers[header] {
			lines = append(lines, fmt.Sprintf("%s=%s:%s", name, header, value))
		}
	}
	return lines
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// hostname is the pod's name: kubelet sets it.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
