package sharding

import (
	"database/sql/driver"
	"io"
	"reflect"
)

// rows are those of a query. They refuse to go on after their scope's end, count
// what they read, and notice when the server ends the transaction.
type rows struct {
	driver.Rows
	scope *Scope
	conn  *conn
	tx    *tx // that was open, or nil
	bytes int
}

func (r *rows) Next(dest []driver.Value) error {
	if _, err := r.scope.check(); err != nil {
		return err
	}
	if err := r.Rows.Next(dest); err != nil {
		return r.saw(err)
	}
	for _, v := range dest {
		r.bytes += size(v)
	}
	return nil
}

func (r *rows) Close() error {
	r.scope.root.load.bytes.Add(uint64(r.bytes))
	r.bytes = 0
	return r.saw(r.Rows.Close())
}

// saw explains an error of a row.
func (r *rows) saw(err error) error {
	if err == nil || err == io.EOF || r.tx == nil || r.conn.tx != r.tx {
		return err
	}
	return r.conn.explain(r.scope, err)
}

// The rest is what database/sql asks of rows that can do more, and answered as
// it does itself for those that can't.

func (r *rows) HasNextResultSet() bool {
	more, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && more.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	more, ok := r.Rows.(driver.RowsNextResultSet)
	if !ok {
		return io.EOF
	}
	if _, err := r.scope.check(); err != nil {
		return err
	}
	return r.saw(more.NextResultSet())
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if t, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return t.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r *rows) ColumnTypeLength(i int) (int64, bool) {
	if t, ok := r.Rows.(driver.RowsColumnTypeLength); ok {
		return t.ColumnTypeLength(i)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if t, ok := r.Rows.(driver.RowsColumnTypeNullable); ok {
		return t.ColumnTypeNullable(i)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if t, ok := r.Rows.(driver.RowsColumnTypePrecisionScale); ok {
		return t.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}

func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	if t, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return t.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}
