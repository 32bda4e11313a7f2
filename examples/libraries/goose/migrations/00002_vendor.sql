-- +goose Up
ALTER TABLE products ADD COLUMN vendor VARCHAR(255) NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE products DROP COLUMN vendor;
