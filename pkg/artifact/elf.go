package artifact

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// machines are the architectures' numbers in an ELF header.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// elfHeader is how much of a program the check looks at.
const elfHeader = 64

// checkProgram says what is wrong with a program that begins with head: it must
// be for Linux's ELF and the architecture.
func checkProgram(head []byte, arch string) error {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return fmt.Errorf("it is not a program for Linux (it begins with %q)", head[:min(len(head), 12)])
	}
	if head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return fmt.Errorf("it is not a 64-bit program for %s", arch)
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	if machine != machines[arch] {
		return fmt.Errorf("it is a program for %s, and the nodes are %s: they could not run it (exec format error)", archOf(machine), arch)
	}
	return nil
}

func archOf(machine elf.Machine) string {
	for arch, m := range machines {
		if m == machine {
			return arch
		}
	}
	return machine.String()
}
