package main

import "github.com/spf13/cobra"

// helpTopics are pages of 'sandpit help' that are not about one command.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "environment",
			Short: "The variables and files that sandpit reads",
			Long: `SANDPIT_HOME
    Directory of sandboxes and the cache. By default sandboxes are kept in
    $XDG_STATE_HOME/sandpit (~/.local/state/sandpit) and the cache in
    $XDG_CACHE_HOME/sandpit (~/.cache/sandpit). Different homes do not see each
    other's sandboxes.

DOCKER_CONFIG
    Directory of Docker's config.json (~/.docker), which holds the credentials
    of registries, or names the helpers that do.

NO_COLOR
    Not empty: no colours. There are none where the output is not a terminal
    or TERM is dumb either.

TERM
    Is passed on to commands that get a terminal ('sandpit run -t').

GOMEMLIMIT
    How much memory sandpit itself aims to stay below (200MiB). It is not about
    the sandboxes' memory.`,
		},
		{
			Use:   "exit-status",
			Short: "What sandpit's exit statuses mean",
			Long: `0     success
124   a command ran longer than --timeout allows, and was killed
125   sandpit itself failed; standard error says why
126   the command of 'run' or 'exec' cannot be executed
127   the command of 'run' or 'exec' was not found
130   sandpit was interrupted

Any other status of 'run' and 'exec' is the command's own, and 128 plus its
number that of a signal which ended the command. 'sandpit doctor' ends with 1 if
sandboxes cannot run here.

A command that is given several sandboxes does what it can: it ends with 125 if
it failed for one of them.`,
		},
		{
			Use:   "format",
			Short: "Output for programs: JSON and templates",
			Long: `--format json prints JSON, a single array where there can be several things;
names of fields stay what they are, times are RFC 3339. --format TEMPLATE prints a line for each thing, made by a Go
template: fields in double braces, if, with and range, and the functions eq,
index, join, json, len, lower, ne, not, printf and upper
(https://pkg.go.dev/text/template has the syntax). \t and \n are a tab and the
end of a line. What is not there is empty.

Fields of 'ls', 'ps' and 'inspect', as JSON and in templates:

    name          .Name
    status        .Status       starting, running, draining, stopped, crashed
                                or unreadable
    error         .Error        what of the sandbox cannot be read
    image         .Image        as asked for; empty: the embedded one
    image_digest  .ImageDigest  (inspect)
    cpus          .CPUs
    memory_mib    .MemoryMiB
    labels        .Labels       {{index .Labels "key"}}
    created_at    .CreatedAt
    updated_at    .UpdatedAt    when the status last changed
    exit          .Exit         missing while the sandbox has not ended
      code          .Exit.Code
      success       .Exit.Success
      reason        .Exit.Reason  stopped, killed, drained, idle-timeout,
                                  max-duration, creator-ended or crashed
      detail        .Exit.Detail
      console       .Exit.Console  the end of the guest's console after a
                                   crash (inspect)
    config        .Config       the whole configuration (inspect)`,
		},
	}
}
