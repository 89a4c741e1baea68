package shell

import (
	"maps"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// assignment evaluates one name=value and returns what to store.
func (s *Shell) assignment(as *syntax.Assign) (string, expand.Variable, error) {
	name := as.Name.Value
	v := s.vars[name]
	if as.Array != nil {
		return s.arrayAssignment(as, v)
	}
	val, err := s.literal(as.Value)
	if err != nil {
		return "", v, err
	}
	if as.Index != nil {
		return s.elementAssignment(as, v, val)
	}
	if as.Append {
		val = v.String() + val
	}
	v.Set, v.Kind, v.Str, v.List, v.Indexes, v.Map = true, expand.String, val, nil, nil, nil
	return name, v, nil
}

func (s *Shell) arrayAssignment(as *syntax.Assign, v expand.Variable) (string, expand.Variable, error) {
	list := []string{}
	if as.Append && v.Kind == expand.Indexed {
		list = append(list, v.List...)
	}
	for _, el := range as.Array.Elems {
		if el.Index != nil {
			s.errorf("%s: array subscripts in a list are not supported", as.Name.Value)
			return "", v, errReported
		}
		f, err := s.fields(el.Value)
		if err != nil {
			return "", v, err
		}
		list = append(list, f...)
	}
	v.Set, v.Kind, v.Str, v.List, v.Indexes, v.Map = true, expand.Indexed, "", list, nil, nil
	return as.Name.Value, v, nil
}

func (s *Shell) elementAssignment(as *syntax.Assign, v expand.Variable, val string) (string, expand.Variable, error) {
	i, err := s.arith(as.Index)
	if err != nil {
		return "", v, err
	}
	var list []string
	switch v.Kind {
	case expand.Indexed:
		list = append(list, v.List...)
	case expand.String:
		list = append(list, v.Str)
	}
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i > 1<<20 {
		s.errorf("%s: bad array subscript", as.Name.Value)
		return "", v, errReported
	}
	for len(list) <= i {
		list = append(list, "")
	}
	if as.Append {
		val = list[i] + val
	}
	list[i] = val
	v.Set, v.Kind, v.Str, v.List, v.Indexes, v.Map = true, expand.Indexed, "", list, nil, nil
	return as.Name.Value, v, nil
}

// declare runs export, readonly, local, declare and typeset.
func (s *Shell) declare(c *syntax.DeclClause) {
	var words []*syntax.Assign
	for _, as := range c.Args {
		if as.Name != nil {
			words = append(words, as)
			continue
		}
		fields, err := s.fields(as.Value) // options, or names from expansions
		if err != nil {
			s.status = 1
			return
		}
		for _, f := range fields {
			words = append(words, literalAssign(f))
		}
	}
	s.status = s.declareWords(c.Variant.Value, words)
}

// literalAssign makes an assignment of a word that has been expanded already.
func literalAssign(f string) *syntax.Assign {
	name, val, ok := strings.Cut(f, "=")
	as := &syntax.Assign{Name: &syntax.Lit{Value: name}, Naked: !ok}
	if ok {
		as.Value = &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: val}}}
	}
	return as
}

func (s *Shell) declareWords(variant string, words []*syntax.Assign) int {
	export, readonly := variant == "export", variant == "readonly"
	local := variant == "local" || variant == "declare" || variant == "typeset"
	unexport, print, array := false, false, false
	for len(words) > 0 && words[0].Naked && len(words[0].Name.Value) > 1 && (words[0].Name.Value[0] == '-' || words[0].Name.Value[0] == '+') {
		opt := words[0].Name.Value
		words = words[1:]
		if opt == "--" {
			break
		}
		for _, c := range opt[1:] {
			switch {
			case c == 'x' && opt[0] == '-':
				export = true
			case c == 'x', c == 'n' && variant == "export":
				unexport = true
			case c == 'r':
				readonly = true
			case c == 'p':
				print = true
			case c == 'g':
				local = false
			case c == 'a':
				array = true
			case c == 'i': // integers are strings here
			default:
				return s.fail(2, "%s: -%c: invalid option", variant, c)
			}
		}
	}
	if variant == "local" && len(s.frames) == 0 {
		return s.fail(1, "local: not in a function")
	}
	if len(words) == 0 || print {
		return s.printVars(variant, words)
	}
	status := 0
	for _, as := range words {
		name := as.Name.Value
		if !syntax.ValidName(name) {
			status = s.fail(1, "%s: %s: bad variable name", variant, name)
			continue
		}
		if local && len(s.frames) > 0 {
			s.makeLocal(name)
			if v := s.vars[name]; as.Naked && !v.ReadOnly {
				s.vars[name] = expand.Variable{Local: true, Exported: v.Exported}
			}
		}
		v := s.vars[name]
		if as.Naked {
			v.Kind = expand.KeepValue
			if array && !v.Set {
				v = expand.Variable{Set: true, Kind: expand.Indexed, List: []string{}}
			}
		} else {
			var err error
			if name, v, err = s.assignment(as); err != nil {
				return 1
			}
		}
		v.Exported = (v.Exported || export) && !unexport
		v.ReadOnly = v.ReadOnly || readonly
		if err := s.assign(name, v); err != nil {
			status = s.fail(1, "%v", err)
		}
	}
	return status
}

// printVars lists variables in a form that can be read back.
func (s *Shell) printVars(variant string, only []*syntax.Assign) int {
	names := slices.Sorted(maps.Keys(s.vars))
	if len(only) > 0 {
		names = nil
		for _, as := range only {
			names = append(names, as.Name.Value)
		}
	}
	var b strings.Builder
	status := 0
	for _, n := range names {
		v, known := s.vars[n]
		switch {
		case !known:
			status = s.fail(1, "%s: %s: not found", variant, n)
			continue
		case variant == "export" && !v.Exported, variant == "readonly" && !v.ReadOnly, variant == "local" && !v.Local:
			continue
		}
		if variant != "" {
			b.WriteString(variant + " ")
		}
		b.WriteString(n)
		if v.Kind == expand.Indexed {
			b.WriteString("=(")
			for i, el := range v.List {
				if i > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(quote(el))
			}
			b.WriteByte(')')
		} else if v.Set {
			b.WriteString("='" + strings.ReplaceAll(v.Str, "'", `'\''`) + "'")
		}
		b.WriteByte('\n')
	}
	s.write(1, b.String())
	return status
}

func unsetBuiltin(s *Shell, args []string) int {
	args = args[1:]
	vars, funcs := true, true
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-v":
			funcs = false
		case "-f":
			vars = false
		case "--":
		default:
			return s.fail(2, "unset: %s: invalid option", args[0])
		}
		args = args[1:]
	}
	status := 0
	for _, n := range args {
		v, known := s.vars[n]
		switch {
		case vars && known && v.ReadOnly:
			status = s.fail(1, "unset: %s: cannot unset: readonly variable", n)
		case vars && known:
			delete(s.vars, n)
		case funcs:
			delete(s.funcs, n)
		}
	}
	return status
}
