//! What an agent proves itself with: a token of each boot, which the VM's firmware interface shows to
//! root in the guest, and from it one proof for each role, so that a user's agent can be given its own
//! and no other's.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hello::Role;

/// Says what is proven; the number is the hello's version.
const PURPOSE: &[u8] = b"macrohard agent 1\0";

/// The secret of one boot of one VM, 32 random bytes; its text form is 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// That the sender knows the token or was given this by one who does.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof([u8; 32]);

/// A token or proof is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct TokenError;

impl Token {
    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel has none, which it says only in its first moments.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        // Up to 256 bytes come whole (getrandom(2)).
        if got == bytes.len() {
            Ok(Self(bytes))
        } else {
            Err(std::io::ErrorKind::Interrupted.into())
        }
    }

    fn mac(&self, role: Role) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length (RFC 2104)"));
        mac.update(PURPOSE);
        mac.update(role.to_string().as_bytes());
        mac
    }

    /// What an agent of this role shows.
    #[must_use]
    pub fn proof(&self, role: Role) -> Proof {
        Proof(self.mac(role).finalize().into_bytes().into())
    }

    /// Whether `proof` is the one of `role`, in a time that tells nothing of it.
    #[must_use]
    pub fn admits(&self, role: Role, proof: &Proof) -> bool {
        self.mac(role).verify_slice(&proof.0).is_ok()
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex(text: &str) -> Result<[u8; 32], TokenError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(TokenError);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(TokenError);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).map_err(|_| TokenError)?;
    }
    Ok(bytes)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read_hex(text).map(Self)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Proof {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read_hex(text).map(Self)
    }
}

/// Secrets do not get into logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_its_role_and_its_boot_only() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let proof = token.proof(Role::User(1000));
        assert!(token.admits(Role::User(1000), &proof));
        assert!(!token.admits(Role::System, &proof));
        assert!(!token.admits(Role::User(100), &proof));
        assert!(!other.admits(Role::User(1000), &proof));
    }

    #[test]
    fn text_forms_come_back_and_others_are_refused() {
        let token = Token::random().unwrap();
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        let proof = token.proof(Role::System);
        assert_eq!(proof.to_string().parse(), Ok(proof));
        for wrong in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<Token>(), Err(TokenError), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "Token(secret)");
    }
}
