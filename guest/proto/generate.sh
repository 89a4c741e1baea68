#!/bin/sh
# Regenerates the Go code of the agent's protocol. Needs protoc (Debian:
# protobuf-compiler); the two plugins come from the modules that go.mod names.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
CGO_ENABLED=0 go build -o "$bin/" \
	google.golang.org/protobuf/cmd/protoc-gen-go \
	github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
PATH="$bin:$PATH" protoc --proto_path=. \
	--go_out=. --go_opt=paths=source_relative \
	--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative \
	agent.proto files.proto
# The house keeps unsafe out of all packages but two; a copy of the descriptor
# at start costs a microsecond.
sed -i -e '/^\tunsafe "unsafe"$/d' \
	-e 's/unsafe\.Slice(unsafe\.StringData(\([A-Za-z_]*\)), len(\1))/[]byte(\1)/' agent.pb.go files.pb.go
gofmt -w agent.pb.go agent_ttrpc.pb.go files.pb.go files_ttrpc.pb.go
