package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
	"time"
)

// lineTemplate is a template of --format: Go's syntax, and of its meaning what
// a line of output needs: fields, if, with, range, variables of a range, and a
// few functions. Package text/template can call any method, so with it the
// linker keeps every method of every type: 3 MB more, for the same lines.
type lineTemplate struct{ root *parse.ListNode }

func parseTemplate(line string) (*lineTemplate, error) {
	known := make(map[string]any, len(templateFuncs))
	for name := range templateFuncs {
		known[name] = true
	}
	trees, err := parse.Parse("format", line, "", "", known)
	if err != nil {
		return nil, err
	}
	if len(trees) != 1 {
		return nil, errors.New("--format: want one template, without definitions of others")
	}
	return &lineTemplate{trees["format"].Root}, nil
}

// execute writes what the template makes of a value.
func (t *lineTemplate) execute(w io.Writer, value any) error {
	root := reflect.ValueOf(value)
	e := execution{w: w, vars: []variable{{"$", root}}}
	return e.list(root, t.root)
}

type variable struct {
	name  string
	value reflect.Value
}

// execution is a template at work. dot is what a field belongs to.
type execution struct {
	w    io.Writer
	vars []variable
}

func (e *execution) list(dot reflect.Value, list *parse.ListNode) error {
	if list == nil {
		return nil
	}
	defer func(n int) { e.vars = e.vars[:n] }(len(e.vars))
	for _, node := range list.Nodes {
		if err := e.node(dot, node); err != nil {
			return err
		}
	}
	return nil
}

func (e *execution) node(dot reflect.Value, node parse.Node) error {
	switch n := node.(type) {
	case *parse.TextNode:
		_, err := e.w.Write(n.Text)
		return err
	case *parse.CommentNode:
		return nil
	case *parse.ActionNode:
		v, err := e.pipe(dot, n.Pipe)
		if err == nil && len(n.Pipe.Decl) == 0 {
			_, err = io.WriteString(e.w, text(v))
		}
		return err
	case *parse.IfNode:
		return e.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return e.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return e.loop(dot, &n.BranchNode)
	}
	return fmt.Errorf("%s: not supported here", node)
}

// branch is an if or, where the value becomes the dot, a with.
func (e *execution) branch(dot reflect.Value, n *parse.BranchNode, with bool) error {
	defer func(n int) { e.vars = e.vars[:n] }(len(e.vars))
	v, err := e.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	if !truth(v) {
		return e.list(dot, n.ElseList)
	}
	if with {
		dot = v
	}
	return e.list(dot, n.List)
}

// loop is a range over a list or, in the order of the keys, a map.
func (e *execution) loop(dot reflect.Value, n *parse.BranchNode) error {
	defer func(n int) { e.vars = e.vars[:n] }(len(e.vars))
	decl := n.Pipe.Decl
	v, err := e.commands(dot, n.Pipe)
	if err != nil {
		return err
	}
	if !truth(v) {
		return e.list(dot, n.ElseList)
	}
	base := len(e.vars)
	once := func(key, value reflect.Value) error {
		e.vars = e.vars[:base]
		switch len(decl) {
		case 1:
			e.vars = append(e.vars, variable{decl[0].Ident[0], value})
		case 2:
			e.vars = append(e.vars, variable{decl[0].Ident[0], key}, variable{decl[1].Ident[0], value})
		}
		return e.list(value, n.List)
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			if err := once(reflect.ValueOf(i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(text(a), text(b)) })
		for _, k := range keys {
			if err := once(k, v.MapIndex(k)); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("range %s: want a list or a map", n.Pipe)
	}
	return nil
}

// pipe is commands, and the variables that they set.
func (e *execution) pipe(dot reflect.Value, p *parse.PipeNode) (reflect.Value, error) {
	v, err := e.commands(dot, p)
	if err != nil {
		return v, err
	}
	for _, d := range p.Decl {
		if p.IsAssign {
			return v, fmt.Errorf("%s: not supported here", p)
		}
		e.vars = append(e.vars, variable{d.Ident[0], v})
	}
	return v, nil
}

// commands are calls of which each gets what the one before it came to.
func (e *execution) commands(dot reflect.Value, p *parse.PipeNode) (v reflect.Value, err error) {
	for i, c := range p.Cmds {
		var args []reflect.Value
		id, isCall := c.Args[0].(*parse.IdentifierNode)
		for j, a := range c.Args {
			if isCall && j == 0 {
				continue
			}
			arg, err := e.value(dot, a)
			if err != nil {
				return v, err
			}
			args = append(args, arg)
		}
		if i > 0 {
			args = append(args, v)
		}
		if !isCall {
			if len(args) != 1 {
				return v, fmt.Errorf("%s is no function", c.Args[0])
			}
			v = args[0]
			continue
		}
		out, err := templateFuncs[id.Ident](args)
		if err != nil {
			return v, fmt.Errorf("%s: %w", id.Ident, err)
		}
		v = reflect.ValueOf(out)
	}
	return indirect(v), nil
}

func (e *execution) value(dot reflect.Value, node parse.Node) (reflect.Value, error) {
	switch n := node.(type) {
	case *parse.DotNode:
		return indirect(dot), nil
	case *parse.NilNode:
		return reflect.Value{}, nil
	case *parse.StringNode:
		return reflect.ValueOf(n.Text), nil
	case *parse.BoolNode:
		return reflect.ValueOf(n.True), nil
	case *parse.NumberNode:
		switch {
		case n.IsInt:
			return reflect.ValueOf(int(n.Int64)), nil
		case n.IsFloat:
			return reflect.ValueOf(n.Float64), nil
		}
	case *parse.PipeNode:
		return e.pipe(dot, n)
	case *parse.FieldNode:
		return fields(dot, n.Ident)
	case *parse.ChainNode:
		v, err := e.value(dot, n.Node)
		if err != nil {
			return v, err
		}
		return fields(v, n.Field)
	case *parse.VariableNode:
		for _, v := range slices.Backward(e.vars) {
			if v.name == n.Ident[0] {
				return fields(v.value, n.Ident[1:])
			}
		}
	}
	return reflect.Value{}, fmt.Errorf("%s: not supported here", node)
}

// fields follows names. What is not there has no fields, which is no error; a
// name that no value could have is one.
func fields(v reflect.Value, names []string) (reflect.Value, error) {
	for _, name := range names {
		v = indirect(v)
		switch v.Kind() {
		case reflect.Invalid:
			return v, nil
		case reflect.Struct:
			f, ok := v.Type().FieldByName(name)
			if !ok || !f.IsExported() {
				return v, fmt.Errorf("there is no field .%s; there are %s", name, strings.Join(fieldNames(v.Type()), ", "))
			}
			v = v.FieldByIndex(f.Index)
		case reflect.Map:
			if v.Type().Key().Kind() != reflect.String {
				return v, fmt.Errorf("there is no field .%s", name)
			}
			v = v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
		default:
			return v, fmt.Errorf("there is no field .%s: %s has none", name, v.Type())
		}
	}
	return indirect(v), nil
}

// fieldNames are what a template can ask of a type.
func fieldNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if f.IsExported() && !f.Anonymous {
			names = append(names, "."+f.Name)
		}
	}
	return names
}

// indirect follows pointers and interfaces; nil is no value.
func indirect(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

func plainValue(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	return v.Interface()
}

// text is a value as it is printed; what is not there is nothing.
func text(v reflect.Value) string {
	switch v := plainValue(indirect(v)).(type) {
	case nil:
		return ""
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.Format(time.RFC3339Nano)
	case json.RawMessage:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// truth is what if goes by: everything but zero values, empty ones and what is
// not there.
func truth(v reflect.Value) bool {
	v = indirect(v)
	switch v.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() > 0
	}
	return !v.IsZero()
}
