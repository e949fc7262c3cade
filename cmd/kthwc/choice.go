package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// choice is a flag that has one of a few values: help lists them, the shell
// completes them, and anything else is refused.
type choice struct {
	value   *string
	allowed []string
}

var _ pflag.Value = (*choice)(nil)

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "string" }

func (c *choice) Set(v string) error {
	if !slices.Contains(c.allowed, v) {
		return fmt.Errorf("the values are %s", listed(c.allowed))
	}
	*c.value = v
	return nil
}

// addChoice adds the flag to a set of the command. The first value is the default.
func addChoice(cmd *cobra.Command, flags *pflag.FlagSet, value *string, name, about string, allowed ...string) {
	*value = allowed[0]
	flags.Var(&choice{value, allowed}, name, about+": "+strings.Join(allowed[:len(allowed)-1], ", ")+" or "+allowed[len(allowed)-1])
	complete(cmd, name, cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
}

// listed is texts as a sentence has them.
func listed(texts []string) string {
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " and " + texts[last]
}

// complete says what the shell offers for a flag. A flag that does not exist is
// a mistake of ours.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}
