-- name: AddProduct :execlastid
INSERT INTO products (shop_id, name, stock) VALUES (?, ?, ?);

-- name: Products :many
SELECT id, name, stock FROM products WHERE shop_id = ? ORDER BY id;

-- name: ProductsAfter :many
SELECT id, name, stock FROM products WHERE shop_id = ? AND id > ? ORDER BY id LIMIT ?;

-- name: AddOrder :execlastid
INSERT INTO orders (shop_id, product_id, quantity) VALUES (?, ?, ?);

-- name: TakeStock :execrows
UPDATE products SET stock = stock - sqlc.arg(quantity)
WHERE shop_id = sqlc.arg(shop_id) AND id = sqlc.arg(id) AND stock >= sqlc.arg(quantity);
