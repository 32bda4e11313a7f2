package binlog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	gomysql "github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
)

// A Table is a table as it was when its rows were written. Rows of one layout
// share one Table, so consumers may compare pointers.
//
// Hashes that MariaDB keeps in the rows for unique keys on long values are left out.
//
// The values of its rows are of these types. In an update [Change.Before] and
// [Change.After] have them alike.
//
//	NULL                                nil
//	left out of the log                 Absent{}: binlog_row_image is MINIMAL or NOBLOB, or the column's engine
//	                                    doesn't store it
//	tinyint … bigint                    int64, or uint64 if Unsigned
//	float, double                       float32, float64
//	decimal                             string, with all its digits: -0.50
//	char, varchar, … text               string: bytes in the column's Charset
//	binary, varbinary, … blob           []byte; binary(n) is padded to its length again
//	bit, set                            uint64, a set's first label is bit 0
//	enum                                uint64: 1 is the first of Labels, 0 the empty value of an invalid one
//	year                                int64: 0, or 1901 to 2155
//	date, time, datetime                string as the servers write it, zero dates and all digits of the fraction
//	                                    included: 2024-00-00, -838:59:59.000000
//	timestamp                           string like a datetime's, in UTC
//	json                                string: JSON, which means the same as the server's text and may have other
//	                                    spaces; on MariaDB json is longtext, and this is the text. PartialJSON{} if
//	                                    the log has only what changed
//	uuid, inet4, inet6                  string as MariaDB writes it
//	point … geometry                    []byte: SRID (4 bytes, little endian) and WKB
//	vector                              []byte: float32s, little endian
type Table struct {
	Database, Name string
	Columns        []Column
	Key            []int // the primary key's columns, as indexes into Columns, in the key's order; nil if there is none
}

// A Column is a column of a table.
type Column struct {
	Name     string
	Type     string   // as information_schema.COLUMNS.DATA_TYPE: int, varchar, …
	Unsigned bool     // of numbers
	Charset  string   // of text, enums and sets; "" for others
	Labels   []string // of enums and sets, in utf8mb4 or, if the log says them, in the column's Charset; nil if unknown

	class  class
	length int // of fixed-length binary columns: bytes; of times: digits of the fraction
}

// Absent stands for a value that is not in the log. It is not NULL: the column
// may have any value.
type Absent struct{}

func (Absent) String() string { return "absent" }

// PartialJSON stands for a JSON document of which the log has only the
// difference to what it was (binlog_row_value_options=PARTIAL_JSON). The row
// must be read from the table.
type PartialJSON struct{}

func (PartialJSON) String() string { return "partial JSON" }

// class is what the log itself says of a column's type.
type class uint8

const (
	unknown class = iota
	tinyint
	smallint
	mediumint
	integer
	bigint
	float
	double
	decimal
	bit
	year
	date
	timeOfDay
	datetime
	timestamp
	fixed    // char, binary, and types that MariaDB adds
	variable // varchar, varbinary
	blob1    // tinytext, tinyblob
	blob2
	blob3
	blob4
	enum
	set
	json
	geometry
	vector
)

// classes are the classes of the names that information_schema has.
var classes = map[string]class{
	"tinyint": tinyint, "smallint": smallint, "mediumint": mediumint, "int": integer, "bigint": bigint,
	"float": float, "double": double, "decimal": decimal, "bit": bit, "year": year,
	"date": date, "time": timeOfDay, "datetime": datetime, "timestamp": timestamp,
	"char": fixed, "binary": fixed, "uuid": fixed, "inet4": fixed, "inet6": fixed, "varchar": variable, "varbinary": variable,
	"tinytext": blob1, "text": blob2, "mediumtext": blob3, "longtext": blob4,
	"tinyblob": blob1, "blob": blob2, "mediumblob": blob3, "longblob": blob4,
	"enum": enum, "set": set, "json": json, "vector": vector,
	"geometry": geometry, "point": geometry, "linestring": geometry, "polygon": geometry, "multipoint": geometry, "multilinestring": geometry,
	"multipolygon": geometry, "geometrycollection": geometry, "geomcollection": geometry,
}

// names are what to call a class when only the log is there to ask: for text,
// and for bytes if that is something else.
var names = map[class][2]string{
	tinyint: {"tinyint"}, smallint: {"smallint"}, mediumint: {"mediumint"}, integer: {"int"}, bigint: {"bigint"},
	float: {"float"}, double: {"double"}, decimal: {"decimal"}, bit: {"bit"}, year: {"year"},
	date: {"date"}, timeOfDay: {"time"}, datetime: {"datetime"}, timestamp: {"timestamp"},
	fixed: {"char", "binary"}, variable: {"varchar", "varbinary"},
	blob1: {"tinytext", "tinyblob"}, blob2: {"text", "blob"}, blob3: {"mediumtext", "mediumblob"}, blob4: {"longtext", "longblob"},
	enum: {"enum"}, set: {"set"}, json: {"json"}, geometry: {"geometry"}, vector: {"vector"},
}

// classify returns the class of a column of the log, and its length where one
// is of use.
func classify(kind byte, meta uint16) (c class, length int) {
	switch kind {
	case gomysql.MYSQL_TYPE_TINY:
		return tinyint, 0
	case gomysql.MYSQL_TYPE_SHORT:
		return smallint, 0
	case gomysql.MYSQL_TYPE_INT24:
		return mediumint, 0
	case gomysql.MYSQL_TYPE_LONG:
		return integer, 0
	case gomysql.MYSQL_TYPE_LONGLONG:
		return bigint, 0
	case gomysql.MYSQL_TYPE_FLOAT:
		return float, 0
	case gomysql.MYSQL_TYPE_DOUBLE:
		return double, 0
	case gomysql.MYSQL_TYPE_NEWDECIMAL:
		return decimal, 0
	case gomysql.MYSQL_TYPE_BIT:
		return bit, 0
	case gomysql.MYSQL_TYPE_YEAR:
		return year, 0
	case gomysql.MYSQL_TYPE_DATE, gomysql.MYSQL_TYPE_NEWDATE:
		return date, 0
	case gomysql.MYSQL_TYPE_TIME, gomysql.MYSQL_TYPE_TIME2:
		return timeOfDay, int(meta)
	case gomysql.MYSQL_TYPE_DATETIME, gomysql.MYSQL_TYPE_DATETIME2:
		return datetime, int(meta)
	case gomysql.MYSQL_TYPE_TIMESTAMP, gomysql.MYSQL_TYPE_TIMESTAMP2:
		return timestamp, int(meta)
	case gomysql.MYSQL_TYPE_VARCHAR, gomysql.MYSQL_TYPE_VAR_STRING:
		return variable, 0
	case gomysql.MYSQL_TYPE_JSON:
		return json, 0
	case gomysql.MYSQL_TYPE_GEOMETRY:
		return geometry, 0
	case gomysql.MYSQL_TYPE_VECTOR:
		return vector, 0
	case gomysql.MYSQL_TYPE_BLOB:
		if 1 <= meta && meta <= 4 {
			return blob1 + class(meta-1), 0
		}
	case gomysql.MYSQL_TYPE_STRING:
		// The first byte is the real type, in which two bits carry the highest
		// bits of a length above 255, turned over.
		real, length := byte(meta>>8), int(meta&0xff)
		if real&0x30 != 0x30 {
			length |= int(real&0x30^0x30) << 4
			real |= 0x30
		}
		switch real {
		case gomysql.MYSQL_TYPE_ENUM:
			return enum, 0
		case gomysql.MYSQL_TYPE_SET:
			return set, 0
		case gomysql.MYSQL_TYPE_STRING:
			return fixed, length
		}
	}
	return unknown, 0
}

// A layout is a table as the log and the server together describe it.
type layout struct {
	table   *Table
	types   []byte // the log's description that table was made for
	meta    []uint16
	sign    []byte
	names   [][]byte
	readAt  place // if the names are information_schema's: where the log ended afterwards
	touched bool  // rows were delivered
	hidden  int   // columns at the end of the rows that are not the table's
}

// fits reports whether the table map describes the same table.
func (l *layout) fits(m *replication.TableMapEvent) bool {
	return bytes.Equal(l.types, m.ColumnType) && slices.Equal(l.meta, m.ColumnMeta) && bytes.Equal(l.sign, m.SignednessBitmap) &&
		slices.EqualFunc(l.names, m.ColumnName, bytes.Equal)
}

// A description is what information_schema says of a table.
type description struct {
	columns []Column // without class and length
	key     []string
	hashes  int   // unique keys for which MariaDB keeps a hash in the rows
	end     place // where the log ended after it was asked
}

// hashes returns how many columns at the end of the rows are hashes, which MariaDB
// keeps for unique keys on values too long for an index. Only the log shows them.
func hashes(m *replication.TableMapEvent, asked *description) (n int) {
	if len(m.ColumnName) == 0 {
		if asked != nil && len(asked.columns)+asked.hashes == int(m.ColumnCount) {
			return asked.hashes
		}
		return 0
	}
	for _, name := range slices.Backward(m.ColumnName) {
		if !bytes.HasPrefix(name, []byte("DB_ROW_HASH_")) {
			break
		}
		n++
	}
	return n
}

// describe makes the layout of the table that m is about. The log's own
// description comes first: it is of the moment when the rows were written.
// What it leaves out is taken from asked, which is as of now and may be nil. The
// last columns of the rows, hidden of them, are not the table's.
func describe(m *replication.TableMapEvent, asked *description, hidden int, charset func(collation uint64) (string, error)) (*layout, error) {
	n := int(m.ColumnCount) - hidden
	t := &Table{Database: string(m.Schema), Name: string(m.Table), Columns: make([]Column, n)}
	l := &layout{table: t, hidden: hidden, types: bytes.Clone(m.ColumnType), meta: slices.Clone(m.ColumnMeta), sign: bytes.Clone(m.SignednessBitmap)}
	for _, name := range m.ColumnName {
		l.names = append(l.names, bytes.Clone(name))
	}
	named := len(m.ColumnName) == int(m.ColumnCount)
	if !named {
		switch {
		case asked == nil || len(asked.columns) == 0:
			return nil, fmt.Errorf("%w: table %s.%s: the log doesn't name its columns, and information_schema doesn't have the table: it was dropped since, or the user lacks SELECT on it; %s", ErrSchema, t.Database, t.Name, remedy)
		case len(asked.columns) != n:
			return nil, fmt.Errorf("%w: table %s.%s: rows in the log have %d columns, information_schema has %d: it was altered since, or it has hidden ones; %s", ErrSchema, t.Database, t.Name, n, len(asked.columns), remedy)
		}
		l.readAt = asked.end
	}
	unsigned, text, labels, sets, labelText := m.UnsignedMap(), m.CollationMap(), m.EnumStrValueMap(), m.SetStrValueMap(), m.EnumSetCollationMap()
	var err error
	for i := range t.Columns {
		c := &t.Columns[i]
		var told *Column
		if named {
			c.Name = string(m.ColumnName[i])
			if asked != nil {
				if at := slices.IndexFunc(asked.columns, func(o Column) bool { return o.Name == c.Name }); at >= 0 {
					told = &asked.columns[at]
				}
			}
		} else {
			told = &asked.columns[i]
			c.Name = told.Name
		}
		c.class, c.length = classify(m.ColumnType[i], m.ColumnMeta[i])
		if c.class == unknown {
			return nil, fmt.Errorf("%w: table %s.%s, column %s: the log has type %d, which can't be read (a COMPRESSED column of MariaDB is 140 or 141); leave the table out with Options.Tables", ErrUnsupported, t.Database, t.Name, c.Name, m.ColumnType[i])
		}
		if told != nil && classes[told.Type] != c.class {
			if !named {
				return nil, fmt.Errorf("%w: table %s.%s: column %d is a %s in the log, and in information_schema the %s %s: it was altered since; %s", ErrSchema, t.Database, t.Name, i+1, names[c.class][0], told.Type, told.Name, remedy)
			}
			told = nil // altered since; the log knows better
		}
		c.Type = names[c.class][0]
		if told != nil {
			c.Type, c.Unsigned, c.Charset, c.Labels = told.Type, told.Unsigned, told.Charset, told.Labels
		}
		if u, ok := unsigned[i]; ok && c.class != year {
			if told != nil && !named && u != told.Unsigned {
				return nil, fmt.Errorf("%w: table %s.%s: column %d is unsigned (%t) in the log, and %s is (%t) in information_schema: it was altered since; %s", ErrSchema, t.Database, t.Name, i+1, u, told.Name, told.Unsigned, remedy)
			}
			c.Unsigned = u
		}
		special := told != nil && (told.Type == "uuid" || told.Type == "inet4" || told.Type == "inet6")
		if id, ok := text[i]; ok && c.class != geometry && !special {
			if c.Charset, err = charset(id); err != nil {
				return nil, err
			}
			if bytes := names[c.class][1]; c.Charset == "binary" && bytes != "" {
				c.Charset, c.Type = "", bytes
			} else if told == nil || told.Charset == "" {
				c.Type = names[c.class][0]
			}
		}
		if id, ok := labelText[i]; ok {
			if c.Charset, err = charset(id); err != nil {
				return nil, err
			}
		}
		if list, ok := labels[i]; ok {
			c.Labels = list
		}
		if list, ok := sets[i]; ok {
			c.Labels = list
		}
	}
	switch {
	case named:
		for _, i := range m.PrimaryKey {
			t.Key = append(t.Key, int(i))
		}
	default:
		for _, name := range asked.key {
			t.Key = append(t.Key, slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name }))
		}
	}
	return l, nil
}

// remedy is what helps when names can't be told for certain.
const remedy = "set binlog_row_metadata=FULL on the server, which ends this kind of doubt from then on; meanwhile leave the table out with Options.Tables, or begin after the change"

// affects reports whether a statement may have changed the columns of a table.
// It errs on the side of yes.
func (st *Statement) affects(database, table string) bool {
	if st.Kind != Definition {
		return false
	}
	_, object := firstWords(st.Text)
	switch object {
	case "INDEX", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "USER", "ROLE", "SERVER", "TABLESPACE":
		return false
	case "DATABASE", "SCHEMA":
		return mentions(st.Text, database)
	}
	return (strings.EqualFold(st.Database, database) || mentions(st.Text, database)) && mentions(st.Text, table)
}
