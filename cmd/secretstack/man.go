package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan writes the manual pages; packages of the program ship its output.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "write the manual pages into a folder",
		Args:   argsBetween(1, 1, "the folder to write to"),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			header := &doc.GenManHeader{Title: "SECRETSTACK", Section: "1", Source: "secretstack " + version}
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
