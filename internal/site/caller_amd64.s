#include "textflag.h"

// func Caller() Site
//
// A call by name comes straight here, and this function has no frame of its
// own: BP is still the frame of the function that called Caller, and the word
// above where it points is where that function returns to.
TEXT ·Caller(SB),NOSPLIT,$0-8
	MOVQ 8(BP), AX
	MOVQ AX, ret+0(FP)
	RET
