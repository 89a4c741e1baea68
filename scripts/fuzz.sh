#!/bin/sh
# Runs every fuzz target of the module for the time given, one after the other.
#
#   scripts/fuzz.sh 10s
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
time=${1:-10s}
for dir in $(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do
	for target in $(git grep -h -o '^func Fuzz[A-Za-z0-9_]*' -- ":(glob)$dir/*_test.go" | awk '{print $2}' | sort -u); do
		echo "== ./$dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir"
	done
done
