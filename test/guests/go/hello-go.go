package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	fmt.Println("Hello from Go")
	fmt.Println("arguments:", strings.Join(os.Args[1:], " "))
	greeting, ok := os.LookupEnv("GREETING")
	if !ok {
		greeting = "none"
	}
	fmt.Println("GREETING:", greeting)
	if len(os.Args) > 1 {
		contents, err := os.ReadFile(os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(contents)
	}
}
