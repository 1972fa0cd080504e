// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is the fault of who typed the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// knownCommand is what the root says to a word that is none of its commands.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usagef("there is no command %q (%sskiff --help lists all)", args[0], suggestion("", args[0], names))
}

// noArguments is cobra.NoArgs for commands that have flags only.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is one argument too many (%s --help lists the flags)", args[0], cmd.CommandPath())
	}
	return nil
}

// flagError says the flag package's errors in the words of a person.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return usagef("there is no flag -%s (%s --help lists all)", name, cmd.CommandPath())
		}
		return usagef("there is no flag --%s (%s%s --help lists all)", name, suggestion("--", name, flagNames(cmd.Flags())), cmd.CommandPath())
	}
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return usageError{invalidValue("--"+value.GetFlag().Name, value.GetFlag(), value.GetValue(), value.Unwrap())}
	}
	return usagef("%w (%s --help)", err, cmd.CommandPath())
}

// invalidValue says why a flag does not take a value, wherever that came from.
func invalidValue(setting string, flag *pflag.Flag, value string, err error) error {
	kind := map[string]string{
		"int": "a whole number", "int64": "a whole number", "bool": "true or false", "ip": "an IP address", "duration": "a duration like 30s",
	}[flag.Value.Type()]
	if kind != "" {
		return fmt.Errorf("%s is %q but must be %s", setting, value, kind)
	}
	return fmt.Errorf("%s: %w", setting, err)
}

func flagNames(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// suggestion names what was probably meant, for the middle of a sentence; nothing if all is too far off.
func suggestion(prefix, typed string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(typed, a) - distance(typed, b) })
	if distance(typed, nearest) > max(2, len(typed)/3) {
		return ""
	}
	return fmt.Sprintf("did you mean %s%s? ", prefix, nearest)
}

// distance is how many letters have to be added, taken away or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
