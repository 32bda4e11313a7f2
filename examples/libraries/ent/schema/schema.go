// Package schema is what ent's client is generated from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// A Product is what a shop sells.
type Product struct{ ent.Schema }

// Fields returns the columns. ent knows no key of two columns: it takes the id
// for the key, which is unique over all shops and pods.
func (Product) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("id"),
		field.Int64("shop_id"),
		field.String("name"),
		field.Int("stock"),
	}
}

// An Order is what a shop has sold.
type Order struct{ ent.Schema }

// Fields returns the columns.
func (Order) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("id"),
		field.Int64("shop_id"),
		field.Int64("product_id"),
		field.Int("quantity"),
	}
}
