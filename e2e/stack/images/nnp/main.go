// Command nnp says as whom it runs. Its image has it set-user-ID root, which has no effect where new privileges are not
// allowed.
package main

import (
	"fmt"
	"os"
)

func main() { fmt.Printf("Effective uid: %d\n", os.Geteuid()) }
