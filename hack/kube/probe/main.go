// What the tests of a node run in its pods: a server, and a client that ends well if it was answered.
//
//	probe serve ADDRESS
//	probe get URL
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: probe serve ADDRESS | probe get URL")
	}
	switch os.Args[1] {
	case "serve":
		// Process 1 of a container ignores signals that it does not ask for.
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		go func() {
			<-stop
			os.Exit(0)
		}()
		fail(http.ListenAndServe(os.Args[2], http.HandlerFunc(hello)))
	case "get":
		client := http.Client{Timeout: 5 * time.Second}
		answer, err := client.Get(os.Args[2])
		if err != nil {
			fail(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			fail(answer.Status, err)
		}
		fmt.Print(string(body))
	default:
		fail("usage: probe serve ADDRESS | probe get URL")
	}
}

func hello(answer http.ResponseWriter, _ *http.Request) {
	name, _ := os.Hostname()
	fmt.Fprintln(answer, name)
}

func fail(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}
