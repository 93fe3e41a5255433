package session

import (
	"bytes"
	"fmt"
	"iter"
	"slices"

	"example.com/session/internal/codec"
)

// Changes are what a handler did to the values since the last commit. They can be made again to another state of the
// record, which then holds what others saved and what this request wants. The zero value is none.
type changes struct {
	cleared bool // the record's values no longer count
	ops     []op // one for each key, in the order of the first change
	byKey   map[string]int
}

// An op is what was done to the value under one key, and what that comes to.
type op struct {
	key     string
	decided bool     // whatever the record has, this is the value
	updates []update // else what makes it of that, in order
	data    []byte
	ok      bool // there is a value
	differs bool // from the record's
}

// An update makes another value of one. It does not modify old.
type update func(old []byte, ok bool) (data []byte, err error)

const (
	// fewOps is up to how many keys are looked through rather than indexed.
	fewOps = 16
	// maxIdle bounds how many updates of a key are kept that made no difference, which a handler can make in an endless loop.
	// They are kept since they may make one to what others save meanwhile.
	maxIdle = 32
)

// get returns the value under the key, as the changes have it.
func (c *changes) get(base *codec.Values, key string) ([]byte, bool) {
	if o := c.find(key); o != nil {
		return o.data, o.ok
	}
	if c.cleared {
		return nil, false
	}
	return base.Get(key)
}

func (c *changes) find(key string) *op {
	if c.byKey != nil {
		if i, ok := c.byKey[key]; ok {
			return &c.ops[i]
		}
		return nil
	}
	for i := range c.ops {
		if c.ops[i].key == key {
			return &c.ops[i]
		}
	}
	return nil
}

// at returns the op for the key, a new one if need be.
func (c *changes) at(base *codec.Values, key string) *op {
	if o := c.find(key); o != nil {
		return o
	}
	data, ok := c.get(base, key)
	c.ops = append(c.ops, op{key: key, data: data, ok: ok, decided: c.cleared})
	switch last := len(c.ops) - 1; {
	case c.byKey != nil:
		c.byKey[key] = last
	case last >= fewOps:
		c.byKey = make(map[string]int)
		for i := range c.ops {
			c.byKey[c.ops[i].key] = i
		}
	}
	return &c.ops[len(c.ops)-1]
}

// set makes data the value under the key, or with ok false removes it.
func (c *changes) set(base *codec.Values, key string, data []byte, ok bool) {
	o := c.at(base, key)
	o.decided, o.updates, o.data, o.ok = true, nil, data, ok
	o.compare(c, base)
}

// update makes fn's result the value under the key.
func (c *changes) update(base *codec.Values, key string, fn update) error {
	old, had := c.get(base, key)
	data, err := fn(old, had)
	if err != nil {
		return unencodable(key, err)
	}
	o := c.at(base, key)
	same := had && bytes.Equal(old, data)
	o.data, o.ok = data, true
	if !o.decided && !(same && len(o.updates) >= maxIdle) {
		o.updates = append(o.updates, fn)
	}
	o.compare(c, base)
	return nil
}

// clear removes all values.
func (c *changes) clear() { *c = changes{cleared: true} }

// rebase makes the changes to other values of the record.
func (c *changes) rebase(base *codec.Values) error {
	for i := range c.ops {
		o := &c.ops[i]
		if !o.decided {
			o.data, o.ok = base.Get(o.key)
			for _, fn := range o.updates {
				var err error
				if o.data, err = fn(o.data, o.ok); err != nil {
					return unencodable(o.key, err)
				}
				o.ok = true
			}
		}
		o.compare(c, base)
	}
	return nil
}

// compare notes whether the op makes a difference to the record.
func (o *op) compare(c *changes, base *codec.Values) {
	if c.cleared { // that does
		o.differs = o.ok
		return
	}
	data, ok := base.Get(o.key)
	o.differs = ok != o.ok || !bytes.Equal(data, o.data)
}

// any reports whether the changes make a difference to the record.
func (c *changes) any(base *codec.Values) bool {
	return c.cleared && !base.Empty() || slices.ContainsFunc(c.ops, func(o op) bool { return o.differs })
}

// empty reports whether they leave no value.
func (c *changes) empty(base *codec.Values) bool {
	for i := range c.ops {
		if c.ops[i].ok {
			return false
		}
	}
	if c.cleared || base.Empty() {
		return true
	}
	for key := range base.All() {
		if o := c.find(string(key)); o == nil || o.ok {
			return false
		}
	}
	return true
}

// all goes through the values as the changes have them, in ascending order of the keys.
func (c *changes) all(base *codec.Values) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if len(c.ops) > 0 || c.cleared {
			with := base.With(c.encoded(make([]codec.Change, 0, len(c.ops))))
			base = &with
		}
		for key, data := range base.All() {
			if !yield(string(key), data) {
				return
			}
		}
	}
}

// encoded returns the changes as the codec takes them. It appends to list.
func (c *changes) encoded(list []codec.Change) *codec.Changes {
	for i := range c.ops {
		o := &c.ops[i]
		list = append(list, codec.Change{Key: o.key, Data: o.data, Remove: !o.ok})
	}
	return &codec.Changes{Cleared: c.cleared, List: list}
}

func unencodable(key string, err error) error {
	return fmt.Errorf("%w: the value of %q cannot be encoded: %w", errProgram, key, err)
}
