//go:build race

package raceless

const detector = true
