package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// templateFuncs are the functions; each gets what its arguments came to.
var templateFuncs = map[string]func(args []reflect.Value) (any, error){
	"json": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 1); err != nil {
			return nil, err
		}
		out, err := json.Marshal(plainValue(args[0]))
		return string(out), err
	},
	"join": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 2); err != nil {
			return nil, err
		}
		list, isList := plainValue(args[0]).([]string)
		sep, isText := plainValue(args[1]).(string)
		if !isList || !isText {
			return nil, errors.New("want a list of strings and a string")
		}
		return strings.Join(list, sep), nil
	},
	"upper": func(args []reflect.Value) (any, error) { return mapText(strings.ToUpper, args) },
	"lower": func(args []reflect.Value) (any, error) { return mapText(strings.ToLower, args) },
	"len": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 1); err != nil {
			return nil, err
		}
		switch v := args[0]; v.Kind() {
		case reflect.String, reflect.Slice, reflect.Map:
			return v.Len(), nil
		case reflect.Invalid:
			return 0, nil
		}
		return nil, errors.New("want a string, a list or a map")
	},
	"index": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 2); err != nil {
			return nil, err
		}
		return index(args[0], args[1])
	},
	"eq": func(args []reflect.Value) (any, error) {
		if len(args) < 2 {
			return nil, errors.New("want two arguments or more")
		}
		return slices.ContainsFunc(args[1:], func(v reflect.Value) bool { return text(v) == text(args[0]) }), nil
	},
	"ne": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 2); err != nil {
			return nil, err
		}
		return text(args[0]) != text(args[1]), nil
	},
	"not": func(args []reflect.Value) (any, error) {
		if err := wantArgs(args, 1); err != nil {
			return nil, err
		}
		return !truth(args[0]), nil
	},
	"printf": func(args []reflect.Value) (any, error) {
		if len(args) == 0 || args[0].Kind() != reflect.String {
			return nil, errors.New("want a format")
		}
		var values []any
		for _, a := range args[1:] {
			values = append(values, plainValue(a))
		}
		return fmt.Sprintf(args[0].String(), values...), nil
	},
}

func wantArgs(args []reflect.Value, n int) error {
	if len(args) != n {
		return fmt.Errorf("%d arguments: want %d", len(args), n)
	}
	return nil
}

func mapText(do func(string) string, args []reflect.Value) (any, error) {
	if err := wantArgs(args, 1); err != nil {
		return nil, err
	}
	return do(text(args[0])), nil
}

func index(list, key reflect.Value) (any, error) {
	switch list.Kind() {
	case reflect.Invalid:
		return nil, nil
	case reflect.Map:
		if key.Kind() != reflect.String || list.Type().Key().Kind() != reflect.String {
			return nil, errors.New("want a string as the key")
		}
		return plainValue(list.MapIndex(key.Convert(list.Type().Key()))), nil
	case reflect.Slice:
		if !key.CanInt() || key.Int() < 0 || key.Int() >= int64(list.Len()) {
			return nil, fmt.Errorf("want a number from 0 to %d", list.Len()-1)
		}
		return plainValue(list.Index(int(key.Int()))), nil
	}
	return nil, errors.New("want a list or a map")
}
