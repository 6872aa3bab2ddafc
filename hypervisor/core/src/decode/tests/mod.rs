mod alu;
mod claims;
mod execute;
mod oracle;
