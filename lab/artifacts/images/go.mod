module github.com/kthwc/kthwc/lab/artifacts/images

go 1.26.0
