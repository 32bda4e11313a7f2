module github.com/podworks/podworks/examples

go 1.25.0

require github.com/podworks/podworks v0.0.0
