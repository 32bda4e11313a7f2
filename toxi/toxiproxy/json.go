package toxiproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// object calls member for each member of the JSON object in data, in their order.
// Members that are null count as absent, and so does an object that is null:
// encoding/json treats them so, and with it Toxiproxy.
func object(data []byte, member func(name string, value json.RawMessage)) error {
	var all json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	if isNull(all) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(all))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%s, want an object", excerpt(all))
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errors.New("a member has no name")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if !isNull(value) {
			member(name, value)
		}
	}
	return nil
}

func isNull(value json.RawMessage) bool { return string(bytes.TrimSpace(value)) == "null" }

// excerpt is as much of a value as an error message has room for.
func excerpt(value json.RawMessage) string {
	value = bytes.TrimSpace(value)
	if len(value) <= 64 {
		return string(value)
	}
	return string(bytes.ToValidUTF8(value[:64], nil)) + "…"
}
