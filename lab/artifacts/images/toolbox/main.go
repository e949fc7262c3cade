// Command toolbox is what smoke tests run in pods: a server that says where it
// runs, a client, a resolver, and files to read and write.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

var version = "unknown" // set when linked

// commands by name; each takes its arguments.
var commands = map[string]func(ctx context.Context, args []string) error{
	"version": func(context.Context, []string) error { _, err := fmt.Println("toolbox", version); return err },
	"echo": func(_ context.Context, args []string) error {
		_, err := fmt.Println(strings.Join(args, " "))
		return err
	},
	"env":     environment,
	"cat":     cat,
	"write":   write,
	"sleep":   sleep,
	"serve":   serve,
	"get":     get,
	"resolve": resolve,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"serve"}
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintln(os.Stderr, "toolbox: version | echo TEXT | env | cat FILE | write FILE TEXT | sleep DURATION | serve [ADDRESS] | get URL | resolve NAME")
		os.Exit(64)
	}
	if err := command(ctx, args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "toolbox:", err)
		os.Exit(1)
	}
}

func argument(args []string, otherwise string) string {
	if len(args) == 0 {
		return otherwise
	}
	return args[0]
}

func environment(context.Context, []string) error {
	all := os.Environ()
	slices.Sort(all)
	_, err := fmt.Println(strings.Join(all, "\n"))
	return err
}

func cat(_ context.Context, args []string) error {
	f, err := os.Open(argument(args, "/dev/stdin"))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}

func write(_ context.Context, args []string) error {
	return os.WriteFile(argument(args, "/dev/stdout"), []byte(strings.Join(args[min(1, len(args)):], " ")+"\n"), 0o644)
}

func sleep(ctx context.Context, args []string) error {
	d, err := time.ParseDuration(argument(args, "24h"))
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// serve answers every request with the host, the client and the request.
func serve(ctx context.Context, args []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: argument(args, ":8080"), ReadHeaderTimeout: 5 * time.Second}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "toolbox/"+version)
		fmt.Fprintf(w, "host %s\nclient %s\n%s %s\n", host, r.RemoteAddr, r.Method, r.URL)
		fmt.Println(r.RemoteAddr, r.Method, r.URL)
	})
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	fmt.Println("serving on", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func get(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, argument(args, "http://127.0.0.1:8080"), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("answered %s", response.Status)
	}
	return nil
}

func resolve(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, argument(args, "kubernetes"))
	if err == nil {
		_, err = fmt.Println(strings.Join(addresses, "\n"))
	}
	return err
}
