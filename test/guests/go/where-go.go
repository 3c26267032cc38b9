package main

import (
	"fmt"
	"os"
)

func main() {
	directory, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("cwd:", directory)
	for _, path := range os.Args[1:] {
		contents, err := os.ReadFile(path)
		if err != nil {
			contents = []byte("none\n")
		}
		os.Stdout.Write(contents)
	}
}
