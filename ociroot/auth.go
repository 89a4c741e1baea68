package ociroot

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Auth is a set of credentials for the registry of one reference: a user name
// and a password, or a token.
type Auth struct {
	Username, Password string
	IdentityToken      string // is exchanged for access tokens (OAuth 2 refresh token)
	RegistryToken      string // is sent as it is
}

// String hides the secrets.
func (a Auth) String() string { return fmt.Sprintf("credentials of %q", a.Username) }

// GoString hides them from %#v too.
func (a Auth) GoString() string { return a.String() }

// credentials are the explicit ones, or what Docker's config.json and its
// credential helpers have for the repository, or none.
func credentials(ctx context.Context, repo name.Repository, explicit *Auth) (authn.Authenticator, error) {
	if explicit != nil {
		if *explicit == (Auth{}) {
			return authn.Anonymous, nil // asked for: no look into config.json
		}
		return authn.FromConfig(authn.AuthConfig{
			Username: explicit.Username, Password: explicit.Password,
			IdentityToken: explicit.IdentityToken, RegistryToken: explicit.RegistryToken,
		}), nil
	}
	type result struct {
		auth authn.Authenticator
		err  error
	}
	// A helper is a program, which may ask somebody and wait; nobody has to wait
	// for it longer than ctx says.
	done := make(chan result, 1)
	go func() {
		a, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
		done <- result{a, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("%w: %w (check Docker's config.json and its credential helper)", ErrCredentials, r.err)
		}
		return r.auth, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
