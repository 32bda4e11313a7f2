package gorm

import (
	"gorm.io/gorm"

	"github.com/podworks/podworks"
)

// AddAll inserts products in one statement and returns the ids that gorm says
// they have.
func AddAll(db *gorm.DB, id podworks.ShopID, names ...string) ([]int64, error) {
	rows := make([]product, len(names))
	for i, name := range names {
		rows[i] = product{ShopID: int64(id), Name: name}
	}
	err := db.Create(&rows).Error
	ids := make([]int64, len(rows))
	for i, p := range rows {
		ids[i] = p.ID
	}
	return ids, err
}
